"""Warns about the line of the user's code that called into the package, through whatever libraries."""

import os
import sys
import sysconfig
import warnings
from pathlib import Path
from types import FrameType

_HERE = str(Path(__file__).parent)
_INSTALLED = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (_HERE, *_INSTALLED))


def warn_caller(message: str) -> None:
    """Warn with a message. The warning names the nearest line outside this package and installed libraries.

    In a thread that a library has started there may be no such line; then it names the line that called this function.
    """
    level, frame = 2, _caller_of(sys._getframe())  # noqa: SLF001 - what warnings itself uses
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        level, frame = level + 1, _caller_of(frame)
    warnings.warn(message, stacklevel=2 if frame is None else level)


def _caller_of(frame: FrameType) -> FrameType | None:
    """Return the frame that `warnings` counts next: it skips those of the import system."""
    caller = frame.f_back
    while caller is not None and "importlib" in caller.f_code.co_filename and "_bootstrap" in caller.f_code.co_filename:
        caller = caller.f_back
    return caller
