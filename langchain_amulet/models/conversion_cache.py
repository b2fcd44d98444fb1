"""Folders of converted weights: written whole or not at all, by one process at a time, and checked before use."""

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

logger = logging.getLogger(__name__)

_MANIFEST = "amulet.json"
_LOCK_TIMEOUT_S = 900.0  # as long as converting the largest file takes
_BLOCK_BYTES = 2**22
_DRAFT = ".draft"


def is_intact(folder: Path, *, reads_all: bool = False) -> bool:
    """Return whether a folder is there and its files are as they were written.

    Args:
        folder: A folder of converted weights.
        reads_all: Whether to compare checksums of all files. By default only of those whose size or time of change
            differs from what was noted, so that checking takes no time.
    """
    try:
        noted = json.loads((folder / _MANIFEST).read_text())
        return all(_is_as_noted(folder / name, note, reads_all=reads_all) for name, note in noted.items())
    except (OSError, ValueError, TypeError, AttributeError):  # the manifest is missing or damaged itself
        return False


def _is_as_noted(file: Path, note: list[int], *, reads_all: bool) -> bool:
    size, changed, checksum = note
    status = file.stat()
    if status.st_size != size:
        return False
    return (status.st_mtime_ns == changed and not reads_all) or _checksum(file) == checksum


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Let one process or thread at a time write to the cache; what killed processes have left there is removed.

    Raises:
        OSError: The directory is not writable, or another process writes to it for 15 minutes.
    """
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
        for draft in cache.glob(f"*{_DRAFT}"):
            shutil.rmtree(draft, ignore_errors=True)
    except NotImplementedError:  # a file system without locks; even there, nobody sees an incomplete folder
        pass
    try:
        yield
    finally:
        lock.release()


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Make a folder to write to, in the place of `folder`; it is removed if it was not published.

    Raises:
        OSError: The directory is not writable.
    """
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=_DRAFT, dir=folder.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, folder: Path) -> None:
    """Note what is in the draft, and rename it to `folder`, so that other processes never see an incomplete folder.

    Raises:
        OSError: The disk is full.
    """
    manifest = {file.name: _flushed(file) for file in sorted(draft.iterdir())}
    (draft / _MANIFEST).write_text(json.dumps(manifest))
    _flushed(draft / _MANIFEST)
    try:
        draft.rename(folder)
    except OSError:
        if not is_intact(folder):  # otherwise another process has written the same content
            raise


def _flushed(file: Path) -> tuple[int, int, int]:
    """Return what the manifest notes of a file, once it is on the disk and not only in memory."""
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())
    status = file.stat()
    return status.st_size, status.st_mtime_ns, _checksum(file)


def remove(folder: Path) -> None:
    """Remove a folder that is not intact, and log its name.

    Raises:
        OSError: It cannot be removed.
    """
    if folder.exists():
        logger.warning("The converted weights in %s are damaged or of an older version, and are replaced.", folder)
        shutil.rmtree(folder)
