"""The preferences of one call as an opaque object, whose `repr` shows a keyed digest.

The entry points resolve the preferences of a call once. After that, LangChain's cache keys, traces and callbacks see
the digest and never the text.
"""

from typing import Any, TypeAlias

from pydantic_core import CoreSchema, core_schema

from langchain_amulet.personalization.digest import digest_of
from langchain_amulet.preferences import Preference, PreferenceLike, as_preferences


class ResolvedPreferences:
    """The preferences that apply to one call; may be empty.

    `repr` shows a keyed digest in place of the texts. Equal preferences have equal digests in all processes of the same
    operating system user, so they can share cached answers. The key stays in the user's data directory; without it, a
    digest does not reveal a text.

    Args:
        preferences: The preferences. A preference that expires later is left out from then on.
        age_s: Seconds since they were read from the store.
        store_error: The name of the error's type if the store failed and the answer is therefore a plain one.
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
        """The preferences that have not expired. Only prompts may contain them."""
        return tuple(preference for preference in self._preferences if not preference.is_expired)

    @property
    def digest(self) -> str:
        """A keyed digest of texts and weights; it does not depend on `age_s` and `store_error`.

        Cached prompt prefixes that contain preferences are reused for the same digest only.
        """
        return digest_of(self.preferences)

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
        return bool(self.preferences)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Make pydantic's dumps show what `repr` shows."""
        return core_schema.is_instance_schema(cls, serialization=core_schema.to_string_ser_schema())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResolvedPreferences) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


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
