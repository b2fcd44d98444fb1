"""The parts of an evaluation that options of `amulet eval` name: models, methods, scorers and judges."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_amulet.exceptions import InvalidParameterError, MissingExtraError, ModelLoadError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_amulet.chat_models import ChatAmulet
    from langchain_amulet.evaluation import Method, Scorer

_BESIDE_A_GRID = ("base", "pref", "repeated preference")


def chat_model(model: str | None) -> "ChatAmulet":
    """Return a chat model, which loads on first use."""
    from langchain_amulet.chat_models import ChatAmulet

    return ChatAmulet(model=model)


def loaded_chat_model(model: str, option: str) -> "ChatAmulet":
    """Load the model of an option now, so that an error does not occur after hours of generation.

    Raises:
        ModelLoadError: There is no such model, or it cannot be loaded. The message names the option.
    """
    llm = chat_model(model)
    try:
        llm.load()
    except ModelLoadError as error:
        msg = f"{option} {model}: {error}"
        raise ModelLoadError(msg) from error
    return llm


def methods(
    names: Sequence[str] | None,
    scales: Sequence[float] | None = None,
    contrasts: Sequence[str] | None = None,
    guards: Sequence[str] | None = None,
    *,
    repeat: bool = False,
) -> "list[Method]":
    """Return the named methods and a grid of steering methods; all named ones if nothing is given.

    Raises:
        InvalidParameterError: A method, a contrast or a guard is unknown, or these are given without a scale.
    """
    from langchain_amulet.evaluation.methods.steering import DEFAULT_GUARDS, steering_grid

    if (contrasts or guards or repeat) and not scales:
        msg = "--contrast, --guards and --repeat describe the methods of --scale. Add a scale, such as --scale 3."
        raise InvalidParameterError(msg)
    grid = steering_grid(scales or [], contrasts or ["base"], guards or [DEFAULT_GUARDS], repeat=repeat)
    named = _named(names or (_BESIDE_A_GRID if grid else None))
    return [*{method.name: method for method in (*named, *grid)}.values()]


def _named(names: Sequence[str] | None) -> "list[Method]":
    from langchain_amulet.evaluation import beam_search, best_of, paper_methods
    from langchain_amulet.evaluation.methods.steering import repeated_preference, steering_method

    by_name = {method.name: method for method in (*paper_methods(), repeated_preference(), beam_search(), best_of())}
    if names is None:
        return [*by_name.values()]
    for name in names:
        if name not in by_name and " contrast" not in name:
            msg = f"Unknown method {name!r}. Choose from: {'; '.join(by_name)}; opposite contrast, w=3; and the like."
            raise InvalidParameterError(msg)
    return [by_name.get(name) or steering_method(name) for name in names]


def reward_scorer(name: str) -> "Scorer":
    """Load a reward model now, so that an error does not occur after hours of generation."""
    from langchain_amulet.evaluation.scorers.reward_models import SKYWORK, RewardModel

    model = RewardModel.armorm() if name == "armorm" else RewardModel(SKYWORK if name == "skywork" else name)
    model.load()
    return model.scorer(name)


def judge(name: str) -> "BaseChatModel":
    """Create the judge and call it once, so that an error does not occur after hours of generation.

    A file, a folder or a hub id gives a local judge, which decides by log-probabilities.

    Raises:
        ModelLoadError: It is the name of a local judge, which does not exist or cannot be loaded.
        MissingExtraError: LangChain's package for the provider is not installed.
        InvalidParameterError: The provider is unknown, or the call fails.
    """
    if Path(name).exists() or name.endswith(".gguf") or ("/" in name and ":" not in name):
        return loaded_chat_model(name, "--judge")
    try:
        from langchain.chat_models import init_chat_model

        llm = init_chat_model(name, temperature=0)
        llm.invoke("Write 1, and nothing else.")
    except ImportError as error:
        msg = f"The judge {name} cannot be used: {error}. Install langchain and its package for the provider."
        raise MissingExtraError(msg) from error
    except Exception as error:
        msg = (
            f"The judge {name} cannot be used: {error}\nName a chat model as PROVIDER:MODEL, or the hub id, folder or "
            f"GGUF file of a local judge."
        )
        raise InvalidParameterError(msg) from error
    return llm
