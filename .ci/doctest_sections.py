"""Shows `Example:` in docstrings as code: Griffe knows the section as `Examples:` and takes the singular for prose."""  # noqa: INP001 - loaded by its path

import re
from typing import Any

import griffe


class DoctestSections(griffe.Extension):
    """Renames the section before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
