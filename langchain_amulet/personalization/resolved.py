"""The preferences of one call, as an opaque object.

Preferences are resolved once, where a call enters. From there on, LangChain's cache keys, traces and callbacks see a
keyed digest of them and never their text.
"""

from typing import Any, TypeAlias

from pydantic_core import CoreSchema, core_schema

from langchain_amulet.personalization.digest import digest_of
from langchain_amulet.preferences import Preference, PreferenceLike, as_preferences


class ResolvedPreferences:
    """The preferences that apply to one call, possibly none; `repr` shows a keyed digest in place of their text.

    Equal preferences have equal digests in all processes of the same operating system user, so they can share cached
    answers. The key never leaves the user's data directory; without it, a digest does not reveal a text.

    Args:
        preferences: The preferences. Each is left out once it has expired.
        age_s: Seconds since they were read from the store.
        store_error: The type of the error for which the store could not be read, so that the answer is a plain one.
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
        """The preferences that have not expired. Only the model may see them."""
        return tuple(preference for preference in self._preferences if not preference.is_expired)

    @property
    def digest(self) -> str:
        """A keyed digest of the texts and weights alone: however they were read, equal preferences have equal digests.

        Kept keys and values of prompts that contain preferences are reused under this digest only.
        """
        return digest_of(self.preferences)

    @property
    def notes(self) -> dict[str, Any]:
        """What `response_metadata["amulet"]` reports of how the preferences were read."""
        notes: dict[str, Any] = {}
        if self.age_s:
            notes["preferences_age_s"] = round(self.age_s, 3)
        if self.store_error:
            notes["store_error"] = self.store_error
        return notes

    def __repr__(self) -> str:
        # Answers report both notes, so response caches must keep such answers apart.
        notes = "".join(f", {note}" for note in ("from cache" if self.age_s else "", self.store_error) if note)
        return f"ResolvedPreferences({self.digest}{notes})"

    def __bool__(self) -> bool:
        """Whether there are any preferences."""
        return bool(self.preferences)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Pydantic's schemas and dumps show what `repr` shows."""
        return core_schema.is_instance_schema(cls, serialization=core_schema.to_string_ser_schema())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResolvedPreferences) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


PreferenceArgument: TypeAlias = PreferenceLike | ResolvedPreferences
"""What users may pass as `preference`: a string, a `Preference`, a list of those, or `None` for a plain answer."""


def resolve(preference: PreferenceArgument) -> ResolvedPreferences:
    """Make preferences opaque; resolved ones are returned as they are.

    Raises:
        PreferenceError: The argument is not a preference.
    """
    if isinstance(preference, ResolvedPreferences):
        return preference
    return ResolvedPreferences(as_preferences(preference))
