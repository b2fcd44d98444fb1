"""The preferences that evaluations ask for: the paper's eight dimensions, and any text."""

from dataclasses import dataclass

from langchain_amulet.exceptions import InvalidParameterError

_PAPER = ("creative", "sycophantic", "verbose", "complex", "formal", "pleasant", "concise", "uplifting")


@dataclass(frozen=True, slots=True)
class Dimension:
    """One preference, by a short name.

    Raises:
        InvalidParameterError: The name or the text is empty.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        """Refuse what asks for nothing."""
        if not self.name.strip() or not self.text.strip():
            msg = "A dimension needs a name and a text, such as Dimension('brief', 'Answer in one sentence.')."
            raise InvalidParameterError(msg)


DIMENSIONS = {name: Dimension(name, f"Your answer should be {name} as much as possible.") for name in _PAPER}
"""Those of the paper's code; its main table has creative, verbose, concise and uplifting."""


def as_dimension(given: str | Dimension) -> Dimension:
    """One of the paper's by its name, or any text as it is."""
    if isinstance(given, Dimension):
        return given
    return DIMENSIONS.get(given) or Dimension(given, given)
