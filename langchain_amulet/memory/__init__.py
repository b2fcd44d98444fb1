"""Preferences per user, in a LangGraph store."""

from langchain_amulet.memory.items import PreferenceChange
from langchain_amulet.memory.operations import UserExport
from langchain_amulet.memory.preference_memory import PreferenceMemory

__all__ = ["PreferenceChange", "PreferenceMemory", "UserExport"]
