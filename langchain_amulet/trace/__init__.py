"""Traces: how each token of an answer was drawn, and a page that shows it."""

from langchain_amulet.answers.token_trace import Candidate, TokenTrace, Trace
from langchain_amulet.trace.page import render_trace

__all__ = ["Candidate", "TokenTrace", "Trace", "render_trace"]
