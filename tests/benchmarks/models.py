"""The model, question and preferences of the benchmarks."""

import argparse

from langchain_amulet import ChatAmulet
from langchain_amulet.models.defaults import default_device

PREFERENCES = [
    "Answer concisely.",
    "Be uplifting.",
    "Answer as a list.",
    "Be creative.",
    "Use formal words.",
    "Explain for a child.",
    "Be verbose.",
    "Use examples.",
]
SYSTEM = ("system", "You are a helpful assistant.")
MESSAGES = [
    SYSTEM,
    ("human", "What should I cook for a friend who visits tonight, is tired and likes vegetables a lot?"),
]
LONG_QUESTION = [
    SYSTEM,
    (
        "human",
        """I have been invited to a friend's wedding in another country next summer, and I have never travelled alone
before. What should I think of when I plan the journey, what should I pack, and how do I find out which documents I
need at the border?""",
    ),
]


def chat_model(arguments: argparse.Namespace) -> ChatAmulet:
    """Return the model in the first of the chosen dtypes."""
    return ChatAmulet(model=arguments.model, model_kwargs={"dtype": dtypes_of(arguments)[0]})


def dtypes_of(arguments: argparse.Namespace) -> list[str]:
    """Return the chosen dtypes; by default both on CPUs, where either may be the faster one, and bfloat16 on GPUs."""
    return arguments.dtypes or (["float32", "bfloat16"] if default_device().type == "cpu" else ["bfloat16"])
