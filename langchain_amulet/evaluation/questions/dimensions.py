"""Preferences of evaluations: the paper's eight dimensions, or any text."""

from dataclasses import dataclass

from langchain_amulet.exceptions import InvalidParameterError

_PAPER = ("creative", "sycophantic", "verbose", "complex", "formal", "pleasant", "concise", "uplifting")


@dataclass(frozen=True, slots=True)
class Dimension:
    """A preference with a short name, and with what methods and scorers need to know about it.

    Raises:
        InvalidParameterError: The name or the text is empty.
    """

    name: str
    text: str
    opposite: str | None = None
    """An instruction that asks for the opposite. `None`: looked up in the table of opposites. `""`: there is none."""
    paraphrase: str = ""
    """Another wording of the text, which no method sees, for held-out likelihood. Empty: the text itself."""

    def __post_init__(self) -> None:
        """Check that neither field is empty."""
        if not self.name.strip() or not self.text.strip():
            msg = "A dimension needs a name and a text, such as Dimension('brief', 'Answer in one sentence.')."
            raise InvalidParameterError(msg)


DIMENSIONS = {name: Dimension(name, f"Your answer should be {name} as much as possible.") for name in _PAPER}
"""The dimensions of the paper's code, by name. The paper's main table has creative, verbose, concise and uplifting."""


def as_dimension(preference: str | Dimension) -> Dimension:
    """Return the paper's dimension of this name, or a dimension whose name and text are the given text."""
    if isinstance(preference, Dimension):
        return preference
    return DIMENSIONS.get(preference) or Dimension(preference, preference)
