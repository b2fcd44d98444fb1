"""Converts generated tokens to LangChain message chunks."""
