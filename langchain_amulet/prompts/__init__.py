"""Renders LangChain messages, tools and preferences to the token ids of prompts."""
