"""Middleware and tools for LangChain agents."""

from importlib import import_module

from langchain_amulet.exceptions import MissingExtraError

try:
    import_module("langchain.agents.middleware")
except ImportError as error:
    msg = "langchain_amulet.agents needs LangChain's agents. Install them: pip install 'langchain-amulet[agents]'"
    raise MissingExtraError(msg) from error

from langchain_amulet.agents.extraction import extract_preferences
from langchain_amulet.agents.middleware import AmuletMiddleware
from langchain_amulet.agents.tools import MAX_PREFERENCES, preference_tools
from langchain_amulet.agents.wording import MAX_PREFERENCE_LENGTH

__all__ = [
    "MAX_PREFERENCES",
    "MAX_PREFERENCE_LENGTH",
    "AmuletMiddleware",
    "extract_preferences",
    "preference_tools",
]
