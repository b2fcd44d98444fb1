"""Leaves tokens and passwords out of the arguments of `from_pretrained`, for cache keys, traces and saved copies."""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch

from langchain_amulet.personalization.digest import digest_of_text

_SECRET_WORDS = {"token", "auth", "authorization", "password", "passwd", "pwd", "secret", "apikey"}
_SECRET_WORDS |= {"credential", "credentials", "cookie", "cookies", "session", "header", "headers", "proxy", "proxies"}
_SECRET_KEY = re.compile(r"(api|access|private|secret)_?key", re.IGNORECASE)  # but not `key_mapping`
_USER_IN_URL = re.compile(r"(?<=://)[^/\s]+@")  # up to the last @, since a password may contain some
_LOOKS_SECRET = re.compile(r"\b(hf_\w{8,}|bearer\s+\S+|basic\s+\S+)", re.IGNORECASE)
_PLAIN = (bool, int, float, complex, type(None), torch.dtype, torch.device)


def shown_kwargs(model_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments as texts for cache keys and traces.

    Secrets and objects of unknown kinds appear as keyed digests, so that equal arguments have equal texts. Only the
    tokens of the hub are left out, because weights do not depend on them.
    """
    return {name: repr(value) for name, value in _shown(model_kwargs).items()}


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {name: each for name, each in value.items() if str(name) not in ("token", "use_auth_token")}
        return {name: _hidden(each) if _is_secret(name, each) else _shown(each) for name, each in named.items()}
    if isinstance(value, str):
        return _hidden(value) if _looks_secret(value) else _USER_IN_URL.sub("", value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(each) for each in value]
    if isinstance(value, _PLAIN):
        return value
    if callable(to_dict := getattr(value, "to_dict", None)):  # a config of transformers, such as of quantization
        return {type(value).__name__: _shown(to_dict())}
    return _hidden(value)


def saved_kwargs(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that JSON can represent, without secrets; dtypes become names such as `"float32"`."""
    saved = {name: _saved(value) for name, value in model_kwargs.items() if not _is_secret(name, value)}
    return {name: value for name, value in saved.items() if _is_json(value)}


def _saved(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _saved(each) for name, each in value.items() if not _is_secret(name, each)}
    if isinstance(value, list | tuple):
        return [_saved(each) for each in value if not _looks_secret(each)]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return _USER_IN_URL.sub("", value) if isinstance(value, str) else value


def _is_secret(name: Any, value: Any) -> bool:
    """Return whether the value may be secret. A number is not: `pad_token_id=0` has nothing to do with tokens."""
    if _looks_secret(value):
        return True
    if isinstance(value, _PLAIN):
        return False
    words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", str(name))}
    return bool(words & _SECRET_WORDS or _SECRET_KEY.search(str(name)))


def _looks_secret(value: Any) -> bool:
    return isinstance(value, str) and _LOOKS_SECRET.search(value) is not None


def _hidden(value: Any) -> str:
    return f"{type(value).__name__}({digest_of_text(repr(value))})"


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
