"""The limit on the length of preferences in a memory."""

import logging
import time
from collections.abc import Sequence

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.memory.items import StoredPreference
from langchain_amulet.preferences import Preference

logger = logging.getLogger(__name__)

MAX_TEXT_LENGTH = 10_000
"""Maximum length of a preference's text in a memory, and of its opposite, in characters. It bounds what a preference
costs other users."""

_WARNING_INTERVAL_S = 60.0
_last_warning_s = -_WARNING_INTERVAL_S


def check_length(text: object, opposite: object = None) -> None:
    """Raise if a preference's text or opposite is too long. Other types are not checked.

    Raises:
        InvalidParameterError: One of them has more than `MAX_TEXT_LENGTH` characters.
    """
    for name, value in (("A preference", text), ("The opposite of a preference", opposite)):
        if _is_long(value):
            msg = (
                f"{name} has {len(str(value)):,} characters; {MAX_TEXT_LENGTH:,} are allowed. Shorten it, or split it "
                "into several preferences."
            )
            raise InvalidParameterError(msg)


def is_too_long(preference: Preference) -> bool:
    """Whether the text or the opposite has more than `MAX_TEXT_LENGTH` characters."""
    return _is_long(preference.text) or _is_long(preference.opposite)


def _is_long(text: object) -> bool:
    return isinstance(text, str) and len(text) > MAX_TEXT_LENGTH


def without_too_long(profile: Sequence[StoredPreference]) -> list[StoredPreference]:
    """Leave out preferences that are too long, with a warning in the log, at most one a minute.

    Other programs, and versions without a limit, may have stored them.
    """
    kept = [stored for stored in profile if not is_too_long(stored.preference)]
    if len(kept) < len(profile):
        _warn(len(profile) - len(kept))
    return kept


def _warn(num_left_out: int) -> None:
    global _last_warning_s  # noqa: PLW0603 - the time of the last warning of this process
    now_s = time.monotonic()
    if now_s - _last_warning_s >= _WARNING_INTERVAL_S:
        _last_warning_s = now_s
        logger.warning(
            "%d stored preferences of a user have more than %d characters and are ignored. Shorten them with "
            "PreferenceMemory.update, or delete them with forget. history shows them.",
            num_left_out,
            MAX_TEXT_LENGTH,
        )
