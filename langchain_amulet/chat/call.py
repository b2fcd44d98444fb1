"""From what one call is given to a request of the engine, and back to an answer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from langchain_amulet.answers.answer_stream import AnswerStream
from langchain_amulet.answers.parser import AnswerSyntax, knows_reasoning, opened_reasoning, response_template
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request
from langchain_amulet.models.registry import LoadedModel
from langchain_amulet.personalization.resolved import ResolvedPreferences
from langchain_amulet.preferences import StreamPlan, plan_streams
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.output_spec import OutputSpec, instructions

_END_OF_REASONING = "</think>\n\n"
_TAIL = 16  # tokens at the end of a prompt, among which a part of the answer may have been opened


class Call(NamedTuple):
    """What one call asks of the engine, and what becomes of the tokens."""

    engine: Engine
    request: Request
    answer: Callable[[Generation], AnswerStream]


def prepare_call(
    loaded: LoadedModel, messages: Sequence[BaseMessage], resolved: ResolvedPreferences, settings: CallSettings
) -> Call:
    """Render the prompts of a call, and say how its answer is drawn and told.

    Raises:
        MessageError: The chat template cannot take the messages.
        SchemaError: A schema cannot be followed.
    """
    realignment, output = settings.effective_realignment, settings.output
    plan = plan_streams(resolved.preferences, realignment.guidance_scale, max_streams=settings.max_streams)
    prompts = render(loaded, messages, plan, settings)
    written = opened_reasoning(_text(loaded, prompts[0][-_TAIL:]))
    request = Request(
        prompts,
        plan.weights,
        realignment,
        settings.sampling,
        logprobs=settings.top_logprobs,
        # Rows that hold preferences serve those with the same profile alone: reuse is quick, and quickness tells.
        prefix_keys=[repr(resolved) if preferences else "" for preferences in plan.preferences],
        guide=loaded.constraints.guide(
            output, is_steered=settings.steer_structured, before=_END_OF_REASONING if written else ""
        ),
        timeout_s=settings.timeout_s,
    )
    answer = partial(
        AnswerStream,
        tokenizer=loaded.tokenizer,
        spell=loaded.constraints.spell,
        stop=() if output.is_structure else settings.stop,  # JSON cut off by a text in it would be none
        reading=_reading(loaded, output, prompts[0], written),
        num_prompt_tokens=[len(prompt) for prompt in prompts],
        metadata={
            "model_name": loaded.name,
            "model_provider": "amulet",
            "amulet": {**_metadata(plan, realignment), **resolved.notes},
        },
    )
    return Call(loaded.engine, request, answer)


def render(
    loaded: LoadedModel, messages: Sequence[BaseMessage], plan: StreamPlan, settings: CallSettings
) -> list[list[int]]:
    """The token ids of each stream's prompt, the base stream first."""
    output, tool_format = settings.output, loaded.renderer.tool_format
    return [
        loaded.renderer.render(
            messages,
            preferences,
            tools=output.tools if output.may_call else (),
            instructions=instructions(output, tells_choice=not tool_format.is_native),
            wording=settings.wording,
            template_kwargs=settings.template_kwargs,
        )
        for preferences in plan.preferences
    ]


def _reading(loaded: LoadedModel, output: OutputSpec, prompt: Sequence[int], written: str) -> AnswerSyntax | None:
    """How the answer's text is told apart; `None` if all of it is content."""
    tokenizer, tool_format = loaded.tokenizer, loaded.renderer.tool_format
    has_reasoning = bool(written) or (not output.is_structure and knows_reasoning(tokenizer))
    if output.may_call and output.choice != "any" and not tool_format.is_known:
        return AnswerSyntax(tokenizer.response_template, _text(loaded, prompt), output.tools, shown=None)
    if not output.may_call and not has_reasoning:
        return None
    template = response_template(
        tool_format if output.may_call else None, output.callable_names, has_reasoning=has_reasoning
    )
    return AnswerSyntax(template, written, output.tools)


def _text(loaded: LoadedModel, token_ids: Sequence[int]) -> str:
    text: Any = loaded.tokenizer.decode(list(token_ids))
    return str(text)


def _metadata(plan: StreamPlan, realignment: RealignmentConfig) -> dict[str, Any]:
    is_plain = plan.preferences == ((),)
    guards = {"plausibility": realignment.plausibility, "max_kl": realignment.max_kl} if plan.weights else {}
    if plan.weights and realignment.nucleus is not None:
        guards |= {"nucleus": realignment.nucleus, "nucleus_temperature": realignment.nucleus_temperature}
    return {
        "guidance_scale": 0.0 if is_plain else realignment.guidance_scale,
        "num_streams": len(plan.preferences),
        **guards,
    }
