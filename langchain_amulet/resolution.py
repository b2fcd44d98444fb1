"""Who is asking, and what they prefer.

Preferences are looked up once, where the user's call enters, and travel on as one opaque object: LangChain's cache
keys, traces and callbacks see a keyed digest of them and never a text.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import platformdirs
from langchain_core.runnables import RunnableConfig, ensure_config
from langgraph.store.base import BaseStore
from pydantic_core import CoreSchema, core_schema

from langchain_amulet.exceptions import UserIdError
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.memory.recall_cache import Recalled
from langchain_amulet.preferences import Preference, PreferenceLike, as_preferences

logger = logging.getLogger(__name__)

_WORDING_VERSION = 1  # raise it when the wording of preferences in prompts changes: answers cached before are stale
_KEY_BYTES = 32
_RUNTIME_KEY = "__pregel_runtime"  # where LangGraph keeps the Runtime of the run
_AUTHENTICATED_USER_KEY = "langgraph_auth_user"  # where LangGraph's server keeps who has logged in


class ResolvedPreferences:
    """What was found for one call, nothing included; shows a keyed digest in place of the texts.

    Equal preferences have equal digests, in every process of this machine's user, so they may share cached answers.
    Without the key, which never leaves the user's data directory, a digest does not tell which text it is of.

    Args:
        preferences: What was found; what expires counts until then.
        age_s: Seconds since they were read from the store.
        store_error: The kind of error for which the store could not be read, so that the answer is a plain one.
    """

    __slots__ = ("_preferences", "age_s", "store_error")

    def __init__(
        self, preferences: tuple[Preference, ...], *, age_s: float = 0.0, store_error: str | None = None
    ) -> None:
        self._preferences = preferences
        self.age_s = age_s
        self.store_error = store_error

    @property
    def preferences(self) -> tuple[Preference, ...]:
        """The preferences themselves, for the model alone."""
        return tuple(each for each in self._preferences if not each.is_expired)

    @property
    def notes(self) -> dict[str, Any]:
        """What an answer says of how its preferences were found."""
        notes: dict[str, Any] = {}
        if self.age_s:
            notes["preferences_age_s"] = round(self.age_s, 3)
        if self.store_error:
            notes["store_error"] = self.store_error
        return notes

    def __repr__(self) -> str:
        # Answers tell of both, so that response caches must not take one kind for the other.
        notes = "".join(f", {each}" for each in ("not new" if self.age_s else "", self.store_error) if each)
        return f"ResolvedPreferences({_digest(self.preferences)}{notes})"

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.preferences)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Pydantic's schemas and dumps show what `repr` shows."""
        return core_schema.any_schema(serialization=core_schema.to_string_ser_schema())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResolvedPreferences) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


PreferenceArgument: TypeAlias = PreferenceLike | ResolvedPreferences


def resolve(preference: PreferenceArgument) -> ResolvedPreferences:
    """Make what a user wrote opaque; what is resolved already stays as it is.

    Raises:
        PreferenceError: It is no preference.
    """
    if isinstance(preference, ResolvedPreferences):
        return preference
    return ResolvedPreferences(as_preferences(preference))


class Lookup(NamedTuple):
    """Where to look up whose preferences."""

    memory: PreferenceMemory
    user_id: str


OnStoreError: TypeAlias = Literal["raise", "plain"]
"""What becomes of a call whose user's preferences cannot be read: the store's error, or a plain answer."""


def look_up(lookup: Lookup | None, default: ResolvedPreferences, on_store_error: OnStoreError) -> ResolvedPreferences:
    """What this user prefers; the default where there is no user, or nothing is remembered of them."""
    if lookup is None:
        return default
    try:
        found = lookup.memory.look_up(lookup.user_id)
    except Exception as error:  # noqa: BLE001 - stores fail in all ways
        return _without_store(error, on_store_error)
    return _found(found, default)


async def alook_up(
    lookup: Lookup | None, default: ResolvedPreferences, on_store_error: OnStoreError
) -> ResolvedPreferences:
    """Async `look_up`."""
    if lookup is None:
        return default
    try:
        found = await lookup.memory.alook_up(lookup.user_id)
    except Exception as error:  # noqa: BLE001 - stores fail in all ways
        return _without_store(error, on_store_error)
    return _found(found, default)


def _found(found: Recalled, default: ResolvedPreferences) -> ResolvedPreferences:
    return ResolvedPreferences(found.preferences or default.preferences, age_s=found.age_s)


def _without_store(error: Exception, on_store_error: OnStoreError) -> ResolvedPreferences:
    if on_store_error == "raise" or isinstance(error, UserIdError):
        raise error
    kind = type(error).__name__  # and no more: the message may quote the user
    warnings.warn(f"The store of preferences has failed ({kind}); this answer is a plain one.", stacklevel=2)
    return ResolvedPreferences((), store_error=kind)


def find_lookup(
    config: RunnableConfig | None, memory: PreferenceMemory | None, runtime: object = None
) -> Lookup | None:
    """Tell from the call's config who is asking, and where their preferences are.

    The user is the one that the LangGraph platform has authenticated; else `configurable["user_id"]`; else `user_id` of
    the LangGraph run's context. Without a memory, the store of the LangGraph run under way serves.

    Args:
        config: What the call was given.
        memory: Where to look.
        runtime: That of the LangGraph run, where it is at hand; else it is found in the config.

    Raises:
        UserIdError: The user id is not a string, or differs from the authenticated one.
    """
    configurable = _configurable(config)
    runtime = configurable.get(_RUNTIME_KEY) if runtime is None else runtime
    user_id = _user_id(configurable, runtime)
    if memory is None and isinstance(store := getattr(runtime, "store", None), BaseStore):
        memory = PreferenceMemory(store)
    return None if user_id is None or memory is None else Lookup(memory, user_id)


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    """The call's own values over those of the run around it, which a call cannot take off."""
    ambient = ensure_config(None).get("configurable", {})
    given = ensure_config(config).get("configurable", {})
    protected = {key: ambient[key] for key in (_RUNTIME_KEY, _AUTHENTICATED_USER_KEY) if key in ambient}
    return {**ambient, **given, **protected}


def _user_id(configurable: Mapping[str, Any], runtime: object) -> str | None:
    claimed = configurable.get("user_id")
    authenticated = _authenticated_identity(configurable, runtime)
    if authenticated is not None:
        if claimed not in (None, authenticated):
            msg = (
                "configurable['user_id'] differs from the user that the platform has authenticated. "
                "Leave it out, or pass the authenticated identity."
            )
            raise UserIdError(msg)
        return authenticated
    user_id = claimed if claimed is not None else _get(getattr(runtime, "context", None), "user_id")
    if user_id is not None and not isinstance(user_id, str):
        msg = f"A user id is a string, got {type(user_id).__name__}. Convert it, say by str(user_id)."
        raise UserIdError(msg)
    return user_id


def _authenticated_identity(configurable: Mapping[str, Any], runtime: object) -> str | None:
    of_run: str | None = _get(getattr(getattr(runtime, "server_info", None), "user", None), "identity")
    of_config: str | None = _get(configurable.get(_AUTHENTICATED_USER_KEY), "identity")
    if None not in (of_run, of_config) and of_run != of_config:
        msg = f"configurable[{_AUTHENTICATED_USER_KEY!r}] differs from the authenticated user of the run. Leave it out."
        raise UserIdError(msg)
    return of_config if of_run is None else of_run


def _get(source: object, name: str) -> Any:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _digest(preferences: tuple[Preference, ...]) -> str:
    content = json.dumps([_WORDING_VERSION, *([p.text, float(p.weight)] for p in preferences)])
    return hmac.new(_digest_key(), content.encode(), hashlib.sha256).hexdigest()[:32]


@cache
def _digest_key() -> bytes:
    """The key of this machine's user, made on first use; of this process alone where it cannot be kept."""
    path = Path(platformdirs.user_data_path("langchain-amulet")) / "digest.key"
    try:
        return _read_or_create_key(path)
    except OSError as error:
        logger.warning("Cached answers to users with preferences will not outlive this process: %s", error)
        return secrets.token_bytes(_KEY_BYTES)


def _read_or_create_key(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        try:
            draft.touch(mode=0o600)
            draft.write_bytes(secrets.token_bytes(_KEY_BYTES))
            os.link(draft, path)  # atomic, and fails if another process was first
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        msg = f"{path} holds {len(key)} bytes and no key of {_KEY_BYTES}; delete it"
        raise OSError(msg)
    return key
