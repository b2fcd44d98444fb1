"""The limit on the length of preferences in a memory."""

import logging
import time
from collections.abc import Sequence

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.memory.items import StoredPreference

logger = logging.getLogger(__name__)

MAX_TEXT_LENGTH = 10_000
"""Maximum length of a preference's text in a memory, in characters. It bounds what a preference costs other users."""

_WARNING_INTERVAL_S = 60.0
_last_warning_s = -_WARNING_INTERVAL_S


def check_length(text: object) -> None:
    """Raise if a text is too long. Other types are not checked.

    Raises:
        InvalidParameterError: The text has more than `MAX_TEXT_LENGTH` characters.
    """
    if is_too_long(text):
        msg = (
            f"A preference has {len(str(text)):,} characters; {MAX_TEXT_LENGTH:,} are allowed. Shorten it, or split it "
            "into several preferences."
        )
        raise InvalidParameterError(msg)


def is_too_long(text: object) -> bool:
    """Whether this is a text with more than `MAX_TEXT_LENGTH` characters."""
    return isinstance(text, str) and len(text) > MAX_TEXT_LENGTH


def without_too_long(profile: Sequence[StoredPreference]) -> list[StoredPreference]:
    """Leave out preferences that are too long, with a warning in the log, at most one a minute.

    Other programs, and versions without a limit, may have stored them.
    """
    kept = [stored for stored in profile if not is_too_long(stored.preference.text)]
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
