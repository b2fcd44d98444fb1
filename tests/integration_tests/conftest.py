"""What the tests on the packaged model share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_amulet import ChatAmulet
from langchain_amulet.models import registry


@pytest.fixture(scope="module", autouse=True)
def models_stay_loaded() -> Iterator[None]:
    """Keep what the tests of a file load, since loading it for each test again takes longer than many answers."""
    load = registry._load
    kept: list[registry.LoadedModel] = []

    def load_and_keep(*arguments: Any) -> registry.LoadedModel:
        kept.append(load(*arguments))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_load", load_and_keep)
        yield


@pytest.fixture
def cap_max_tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Limit the answers of every `ChatAmulet` that is made from now on, since generating them takes most of the time."""
    original = ChatAmulet.__init__

    def cap(limit: int) -> None:
        def init(self: ChatAmulet, **fields: Any) -> None:
            original(self, **{**fields, "max_tokens": min(fields.get("max_tokens", limit), limit)})

        monkeypatch.setattr(ChatAmulet, "__init__", init)

    return cap
