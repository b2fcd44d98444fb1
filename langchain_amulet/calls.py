"""From what one call is given to a request of the engine, and back to an answer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from langchain_amulet.answers import Answer
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.models import LoadedModel
from langchain_amulet.preferences import StreamPlan, plan_streams
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.resolution import ResolvedPreferences


class Call(NamedTuple):
    """What one call asks of the engine, and what becomes of the tokens."""

    engine: Engine
    request: Request
    answer: Callable[[Generation], Answer]


def prepare_call(
    loaded: LoadedModel,
    messages: list[BaseMessage],
    resolved: ResolvedPreferences,
    *,
    realignment: RealignmentConfig,
    max_streams: int,
    sampling: SamplingParams,
    stop: Sequence[str],
) -> Call:
    """Render the prompts of a call, and say how its answer is drawn and told."""
    plan = plan_streams(resolved.preferences, realignment.guidance_scale, max_streams=max_streams)
    prompts = render(loaded, messages, plan)
    # Rows that hold preferences serve those with the same profile alone: reuse is quick, and quickness tells.
    keys = [repr(resolved) if preferences else "" for preferences in plan.preferences]
    answer = partial(
        Answer,
        tokenizer=loaded.tokenizer,
        stop=stop,
        num_prompt_tokens=[len(prompt) for prompt in prompts],
        metadata={"model_name": loaded.name, "model_provider": "amulet", "amulet": _metadata(plan, realignment)},
    )
    return Call(loaded.engine, Request(prompts, plan.weights, realignment, sampling, prefix_keys=keys), answer)


def render(loaded: LoadedModel, messages: list[BaseMessage], plan: StreamPlan) -> list[list[int]]:
    """The token ids of each stream's prompt, the base stream first."""
    return [loaded.renderer.render(messages, preferences) for preferences in plan.preferences]


def _metadata(plan: StreamPlan, realignment: RealignmentConfig) -> dict[str, Any]:
    is_plain = plan.preferences == ((),)
    guards = {"plausibility": realignment.plausibility, "max_kl": realignment.max_kl} if plan.weights else {}
    return {
        "guidance_scale": 0.0 if is_plain else realignment.guidance_scale,
        "num_streams": len(plan.preferences),
        **guards,
    }
