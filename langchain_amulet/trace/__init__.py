"""Traces: how each token of an answer was drawn, and a page that shows it."""

from langchain_amulet.answers.token_trace import Candidate, TokenTrace, Trace

__all__ = ["Candidate", "TokenTrace", "Trace"]
