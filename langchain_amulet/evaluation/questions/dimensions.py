"""Preferences of evaluations: the paper's eight dimensions, or any text."""

from dataclasses import dataclass

from langchain_amulet.exceptions import InvalidParameterError

_PAPER = {
    "creative": ("conventional", "Please give an imaginative and original answer."),
    "sycophantic": ("critical", "Please flatter me, and agree with me wherever you can."),
    "verbose": ("concise", "Please answer at great length and in many words."),
    "complex": ("simple", "Please give an intricate answer, with advanced ideas and terms."),
    "formal": ("informal", "Please write in a ceremonious and official tone."),
    "pleasant": ("unpleasant", "Please answer in a friendly and agreeable way."),
    "concise": ("verbose", "Please keep your answer short and to the point."),
    "uplifting": ("depressing", "Please answer in a way that encourages me and lifts my mood."),
}
"""The adjectives of the paper's preferences, each with its opposite and a paraphrase. Both are ours."""


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


_FORM = "Your answer should be {} as much as possible."
DIMENSIONS = {
    name: Dimension(name, _FORM.format(name), _FORM.format(opposite), paraphrase)
    for name, (opposite, paraphrase) in _PAPER.items()
}
"""The dimensions of the paper's code, by name. The paper's main table has creative, verbose, concise and uplifting."""


def as_dimension(preference: str | Dimension) -> Dimension:
    """Return the paper's dimension of this name, or a dimension whose name and text are the given text."""
    if isinstance(preference, Dimension):
        return preference
    return DIMENSIONS.get(preference) or Dimension(preference, preference)
