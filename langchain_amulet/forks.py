"""Renews locks and threads in forked processes, which have only the thread that called `fork`."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """An object with a lock or with threads."""

    def renew(self) -> None:
        """Replace the lock, and forget the threads. Called in a forked process before anything else uses the object."""


_renewables: "weakref.WeakValueDictionary[int, Renewable]" = weakref.WeakValueDictionary()  # by id


def renew_after_fork(renewable: Renewable) -> None:
    """Call `renewable.renew()` in every forked process. The object is held by a weak reference."""
    _renewables[id(renewable)] = renewable


def _renew_all() -> None:
    for reference in _renewables.valuerefs():
        if (renewable := reference()) is not None:
            renewable.renew()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_all)
