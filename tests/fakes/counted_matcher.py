"""Counts the calls of llguidance's matchers outside the engine's thread: the work of compiling and searching."""

import sys
import threading
from typing import Any

import pytest
from llguidance import LLMatcher

PACKAGE = "langchain_amulet.structured."


class CountedMatcher:
    """A matcher of llguidance that counts the calls of all matchers, except those between two draws."""

    num_calls = 0

    def __init__(self, *args: Any, _matcher: LLMatcher | None = None, **kwargs: Any) -> None:
        self._matcher = _matcher or LLMatcher(*args, **kwargs)

    def deep_copy(self) -> "CountedMatcher":
        return type(self)(_matcher=self._matcher.deep_copy())

    def __getattr__(self, name: str) -> Any:
        is_decoding = threading.current_thread().name == "amulet-engine"
        if name != "is_error" and not is_decoding:  # the first is asked after every other call
            CountedMatcher.num_calls += 1
        return getattr(self._matcher, name)


def count_matchers(monkeypatch: pytest.MonkeyPatch) -> type[CountedMatcher]:
    """Let all modules of the package make counted matchers."""
    for name, module in [*sys.modules.items()]:
        if name.startswith(PACKAGE) and hasattr(module, "LLMatcher"):
            monkeypatch.setattr(module, "LLMatcher", CountedMatcher)
    return CountedMatcher
