"""The preferences of one call as an opaque object, which holds a key in place of their texts.

The entry points resolve the preferences of a call once. After that, LangChain's cache keys, traces, callbacks and
serialisers see the key and a digest and never the text, which only `preferences_of` looks up.
"""

import uuid
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from pydantic_core import CoreSchema, core_schema

from langchain_amulet.exceptions import PreferenceError
from langchain_amulet.personalization.caller import Caller
from langchain_amulet.personalization.digest import digest_of
from langchain_amulet.preferences import Preference, PreferenceLike, as_preferences


class _Key:
    """What travels in place of preferences. Its name is random and says nothing about them."""

    __slots__ = ("__weakref__", "name")

    def __init__(self, name: str) -> None:
        self.name = name


# Texts are dropped with the last object that holds their key. They never leave the process.
_preferences: "WeakKeyDictionary[_Key, tuple[Preference, ...]]" = WeakKeyDictionary()
_keys: "WeakValueDictionary[str, _Key]" = WeakValueDictionary()  # for unpickling


class ResolvedPreferences:
    """The preferences that apply to one call; may be empty.

    `repr` shows a keyed digest in place of the texts. Equal preferences have equal digests in all processes of the same
    operating system user, so they can share cached answers. The key stays in the user's data directory; without it, a
    digest does not reveal a text. No attribute holds a text either; `preferences_of` looks them up. A pickled copy
    finds them in the process that made them, as long as an original exists, and is an error elsewhere.

    Args:
        preferences: The preferences. A preference that expires later is left out from then on.
        age_s: Seconds since they were read from the store.
        store_error: The name of the error's type if the store failed and the answer is therefore a plain one.
        num_deletions: `num_deletions()` before they were read from the store; `None` if they come from elsewhere.
    """

    __slots__ = ("_digest", "_key", "age_s", "caller", "num_deletions", "store_error")

    def __init__(
        self,
        preferences: tuple[Preference, ...],
        *,
        age_s: float = 0.0,
        store_error: str | None = None,
        num_deletions: int | None = None,
    ) -> None:
        self._key = _Key(uuid.uuid4().hex)
        self._digest: str | None = None  # of a copy whose texts are in another process
        self.age_s = age_s
        self.store_error = store_error
        self.num_deletions = num_deletions
        self.caller: Caller | None = None
        """Who makes the call, once it has passed an entry point; see `for_caller`."""
        _keys[self._key.name] = self._key
        _preferences[self._key] = preferences

    @property
    def digest(self) -> str:
        """A keyed digest of texts, weights and opposites; it does not depend on `age_s` and `store_error`.

        Cached prompt prefixes that contain preferences are reused for the same digest only.
        """
        return self._digest if self._digest is not None else digest_of(preferences_of(self))

    @property
    def notes(self) -> dict[str, Any]:
        """What `response_metadata["amulet"]` reports about the lookup of the preferences."""
        notes: dict[str, Any] = {}
        if self.age_s:
            notes["preferences_age_s"] = round(self.age_s, 3)
        if self.store_error:
            notes["store_error"] = self.store_error
        return notes

    def __repr__(self) -> str:
        # Answers report both notes, so a response cache must not mix such answers with others.
        notes = "".join(f", {note}" for note in ("from cache" if self.age_s else "", self.store_error) if note)
        return f"ResolvedPreferences({self.digest}{notes})"

    def __bool__(self) -> bool:
        """Return whether there are any preferences."""
        return self._digest is not None or bool(preferences_of(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the key and the digest, not the texts."""
        state = (self.digest, self.age_s, self.store_error, self.caller, self.num_deletions)
        return _from_key, (self._key.name if self else None, *state)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Make pydantic's dumps show what `repr` shows."""
        return core_schema.is_instance_schema(cls, serialization=core_schema.to_string_ser_schema())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResolvedPreferences) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _from_key(
    name: str | None,
    digest: str,
    age_s: float,
    store_error: str | None,
    caller: Caller | None,
    num_deletions: int | None,
) -> ResolvedPreferences:
    """Return the object that was pickled. It shows the same digest even if its texts are in another process."""
    resolved = ResolvedPreferences((), age_s=age_s, store_error=store_error, num_deletions=num_deletions)
    resolved.caller = caller
    if name is not None:
        key = _keys.get(name)
        resolved._key, resolved._digest = (_Key(name), digest) if key is None else (key, None)  # noqa: SLF001
    return resolved


def preferences_of(resolved: ResolvedPreferences) -> tuple[Preference, ...]:
    """Return the preferences that have not expired. Only prompts may contain them.

    Raises:
        PreferenceError: The object was unpickled in another process, or after its original was gone.
    """
    preferences = _preferences.get(resolved._key)  # noqa: SLF001 - a method would be found by those who walk objects
    if preferences is None:
        msg = (
            f"The texts of {resolved!r} stayed in the process that made it, and are not pickled. "
            "Pass the preferences again, or store them in a PreferenceMemory."
        )
        raise PreferenceError(msg)
    return tuple(preference for preference in preferences if not preference.is_expired)


def as_of_now(resolved: ResolvedPreferences) -> ResolvedPreferences:
    """Return the preferences as they apply now, for the whole of one call.

    The cache key and the prompts of the call must follow the same preferences, so none of them expires in between.
    """
    fixed = tuple(replace(preference, expires_at=None) for preference in preferences_of(resolved))
    if fixed == _preferences[resolved._key]:  # noqa: SLF001
        return resolved
    return ResolvedPreferences(
        fixed, age_s=resolved.age_s, store_error=resolved.store_error, num_deletions=resolved.num_deletions
    )


def for_caller(resolved: ResolvedPreferences, caller: Caller, num_deletions: int) -> ResolvedPreferences:
    """Return a copy for one call, which says who makes it. What has passed an outer entry point is returned unchanged.

    Args:
        resolved: The preferences of the call.
        caller: Who makes it.
        num_deletions: `num_deletions()` before the preferences were looked up.
    """
    if resolved.caller is not None:
        return resolved
    copied = copy(resolved)
    copied.caller = caller
    copied.num_deletions = num_deletions if resolved.num_deletions is None else resolved.num_deletions
    return copied


PreferenceArgument: TypeAlias = PreferenceLike | ResolvedPreferences
"""What users may pass as `preference`: a string, a `Preference`, a list of these, or `None` for a plain answer."""


def resolve(preference: PreferenceArgument) -> ResolvedPreferences:
    """Convert preferences to an opaque object; return resolved preferences unchanged.

    Raises:
        PreferenceError: The argument is not a string, a `Preference`, a list of these, or `None`.
    """
    if isinstance(preference, ResolvedPreferences):
        return preference
    return ResolvedPreferences(as_preferences(preference))
