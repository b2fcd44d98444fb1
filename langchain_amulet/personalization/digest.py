"""Keyed digests of preferences, with a key per operating system user."""

import hashlib
import hmac
import json
import logging
import os
import secrets
from pathlib import Path

import platformdirs

from langchain_amulet.opposites import opposite_of
from langchain_amulet.preferences import Preference

logger = logging.getLogger(__name__)

_WORDING_VERSION = (
    1  # increment it when prompts word preferences differently, so that answers cached before are not used
)
_KEY_BYTES = 32


def digest_of(preferences: tuple[Preference, ...]) -> str:
    """Return the HMAC-SHA256 of texts, weights and opposites, as 32 hexadecimal digits.

    Opposites count as they apply: a table of opposites that differs in another version gives another digest.
    It is equal in all processes of the same operating system user, and reveals nothing without the key.
    """
    return _hmac(json.dumps([_WORDING_VERSION, *map(_parts, preferences)]))


def _parts(preference: Preference) -> list[str | float]:
    parts: list[str | float] = [preference.text, float(preference.weight)]
    opposite = opposite_of(preference)
    return parts if opposite is None else [*parts, opposite]


def digest_of_text(text: str) -> str:
    """Return the HMAC-SHA256 of another private text than a preference, such as a token, as 32 hexadecimal digits."""
    return _hmac(json.dumps({"text": text}))


def _hmac(content: str) -> str:
    return hmac.new(_digest_key(), content.encode(), hashlib.sha256).hexdigest()[:32]


def _digest_key() -> bytes:
    """Return this process's key: the same one for all threads, even if several ask for it at once."""
    if not _key:
        _key.setdefault("", _stored_or_temporary_key())  # atomic, and needs no lock, which a fork could leave locked
    return _key[""]


_key: dict[str, bytes] = {}


def _stored_or_temporary_key() -> bytes:
    """Return the key in the user's data directory, created on first use; a temporary key if it cannot be stored."""
    path = Path(platformdirs.user_data_path("langchain-amulet")) / "digest.key"
    try:
        return _read_or_create_key(path)
    except OSError as error:
        logger.warning("Cached answers to users with preferences will not outlive this process: %s", error)
        return secrets.token_bytes(_KEY_BYTES)


def _read_or_create_key(path: Path) -> bytes:
    if not path.is_absolute():
        msg = f"{path} is no absolute path, since the home directory of this user is unknown; set XDG_DATA_HOME"
        raise OSError(msg)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _create_key(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES or not any(key):  # a power failure may leave zeros
        msg = f"{path} is damaged: it holds {len(key)} bytes that are no key of {_KEY_BYTES}; delete the file"
        raise OSError(msg)
    return key


def _create_key(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        draft.touch(mode=0o600)
        with draft.open("wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # atomic, and fails if another process was first
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
