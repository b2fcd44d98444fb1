"""Per-user preference memory over a LangGraph store."""

from langchain_amulet.memory.items import PreferenceChange
from langchain_amulet.memory.preference_memory import PreferenceMemory

__all__ = ["PreferenceChange", "PreferenceMemory"]
