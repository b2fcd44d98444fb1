"""Converts generated tokens to text, reasoning and tool calls in LangChain message chunks."""
