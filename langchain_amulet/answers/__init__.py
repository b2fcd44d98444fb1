"""From generated tokens to LangChain message chunks."""
