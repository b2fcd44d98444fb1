"""What tests of documentation and examples share."""

from collections.abc import Callable
from typing import Any

import pytest

from langchain_amulet import ChatAmulet


@pytest.fixture
def cap_max_tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Limit the answers of every `ChatAmulet` that is made from now on, since generating them takes most of the time."""
    original = ChatAmulet.__init__

    def cap(limit: int) -> None:
        def init(self: ChatAmulet, **fields: Any) -> None:
            original(self, **{**fields, "max_tokens": min(fields.get("max_tokens", limit), limit)})

        monkeypatch.setattr(ChatAmulet, "__init__", init)

    return cap
