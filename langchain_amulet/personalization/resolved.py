"""The preferences of one call, as an opaque object.

LangChain's cache keys, traces and callbacks see a keyed digest of them and never a text.
"""

from typing import Any, TypeAlias

from pydantic_core import CoreSchema, core_schema

from langchain_amulet.personalization.digest import digest_of
from langchain_amulet.preferences import Preference, PreferenceLike, as_preferences


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
        return f"ResolvedPreferences({digest_of(self.preferences)}{notes})"

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
