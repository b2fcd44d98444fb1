"""From LangChain messages and preferences to token ids."""
