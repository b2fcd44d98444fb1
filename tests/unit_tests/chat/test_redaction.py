"""Tokens and passwords among the arguments of `from_pretrained` are not shown."""

from typing import Any, cast

import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.load.serializable import SerializedConstructor
from transformers import BitsAndBytesConfig

from langchain_amulet import ChatAmulet
from langchain_amulet.chat.redaction import saved_kwargs, shown_kwargs
from tests.fakes.chats import TOKENIZER
from tests.fakes.models import tiny_model

SECRET = "s3cret"  # noqa: S105


class Login:
    """An object that shows its password."""

    def __repr__(self) -> str:
        return f"Login({SECRET})"


SECRETS: dict[str, Any] = {
    "token": SECRET,
    "use_auth_token": SECRET,
    "adapter_kwargs": {"token": SECRET, "revision": "main", "nested": [{"api_key": SECRET}]},
    "proxies": {"https": f"http://me:{SECRET}@proxy:3128"},
    "mirror": f"https://me:{SECRET}@mirror.example",
    "storage_options": {"headers": {"Authorization": f"Bearer {SECRET}"}},
    "note": f"hf_{SECRET}{SECRET}",
    "notes": [f"hf_{SECRET}{SECRET}"],
    "server": f"https://me:p@{SECRET}@server.example",
    "login": Login(),
}


@pytest.mark.parametrize("name", SECRETS)
def test_secret_is_neither_shown_nor_saved(name):
    given = {name: SECRETS[name], "revision": "main"}
    assert SECRET not in repr(shown_kwargs(given)) + repr(saved_kwargs(given))
    assert shown_kwargs(given)["revision"] == "'main'"
    assert saved_kwargs(given)["revision"] == "main"


def test_callbacks_cache_keys_and_saved_copies_show_no_secret(tmp_path):
    class Recorder(BaseCallbackHandler):
        def on_chat_model_start(self, *args, **kwargs):
            seen.append(repr((args, kwargs)))

    seen: list[str] = []
    tiny_model("qwen2").save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    given = {"token": SECRET, "proxies": SECRETS["proxies"], "dtype": torch.float32}
    llm = ChatAmulet(model=str(tmp_path), model_kwargs=given, cache=InMemoryCache(), max_tokens=2)
    llm.invoke("Why?", {"callbacks": [Recorder()]})
    assert len(seen) == 1
    kept = cast("InMemoryCache", llm.cache)._cache
    assert SECRET not in repr(seen) + repr(kept) + dumps(llm) + repr(llm) + repr(llm.asdict())


def test_arguments_that_change_weights_are_told_apart():
    given = [
        {},
        {"revision": "a"},
        {"revision": "b"},
        {"pad_token_id": 0},
        {"pad_token_id": 1},
        {"dtype": torch.float16},
    ]
    given += [{"quantization_config": BitsAndBytesConfig(load_in_8bit=bits)} for bits in (False, True)]
    given += [
        {"key_mapping": {"a": "b"}},
        {"key_mapping": {"a": "c"}},
        {"login": Login()},
        {"session": "x"},
        {"session": "y"},
    ]
    assert len({repr(shown_kwargs(each)) for each in given}) == len(given)


def test_hub_token_changes_no_cache_key():
    assert shown_kwargs({"token": "x"}) == shown_kwargs({"token": "y"}) == shown_kwargs({})


def test_harmless_arguments_are_saved():
    given = {"dtype": torch.float32, "key_mapping": {"a": "b"}, "device_map": {"": 0}, "pad_token_id": 0}
    llm = ChatAmulet(model="no/such-model", model_kwargs=given)
    saved = cast("SerializedConstructor", llm.to_json())
    assert saved["kwargs"]["model_kwargs"] == {**given, "dtype": "float32"}
