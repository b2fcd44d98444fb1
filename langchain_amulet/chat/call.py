"""Turns the input of one call into a request of the engine, and the tokens into message chunks."""

import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from langchain_amulet.answers.answer_stream import AnswerStream
from langchain_amulet.answers.parser import AnswerSyntax, knows_reasoning, opened_reasoning, response_template
from langchain_amulet.answers.stop_strings import StopStrings
from langchain_amulet.chat.prefix_sharing import prefix_keys
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request
from langchain_amulet.foreign_errors import failed_rendering, shielded, unexpected
from langchain_amulet.memory.access import num_deletions
from langchain_amulet.models.registry import LoadedModel
from langchain_amulet.personalization.resolved import ResolvedPreferences, preferences_of
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.stream_plan import StreamPlan, plan_streams
from langchain_amulet.structured.output_spec import OutputSpec, instructions

_END_OF_REASONING = "</think>\n\n"
_NUM_TAIL_TOKENS = 16  # the end of a prompt, in which an open reasoning tag is searched


class Call(NamedTuple):
    """A request that is ready to be submitted."""

    engine: Engine
    request: Request
    answer: Callable[[Generation], AnswerStream]
    """Creates the converter from the request's token stream to message chunks."""

    @shielded(unexpected)
    def stream(self) -> Generator[ChatGenerationChunk]:
        """Submit the request and yield the answer in chunks; closing the iterator cancels the request."""
        answer = self.answer(self.engine.submit(self.request))
        try:
            for token_id in answer.generation:
                if chunk := answer.push(token_id):
                    yield chunk
            yield from answer.finish()
        finally:
            answer.generation.cancel()

    @shielded(unexpected)
    async def astream(self) -> AsyncGenerator[ChatGenerationChunk]:
        """Async `stream`."""
        answer = self.answer(await self.engine.asubmit(self.request))
        try:
            async for token_id in answer.generation:
                if chunk := answer.push(token_id):
                    yield chunk
            for chunk in answer.finish():
                yield chunk
        finally:
            answer.generation.cancel()


@shielded(unexpected)
def prepare_call(
    loaded: LoadedModel, messages: Sequence[BaseMessage], resolved: ResolvedPreferences, settings: CallSettings
) -> Call:
    """Render the prompts of a call and build its request.

    Raises:
        MessageError: The chat template does not accept the messages.
        SchemaError: The grammar cannot enforce a schema.
        InvalidParameterError: A value of the model's generation config is out of range.
    """
    asked = plan_of(loaded, resolved, settings)
    plan = asked.traceable if settings.trace else asked
    prompts = render(loaded, messages, plan, settings)
    own_prompt = _own_prompt(loaded, messages, plan, prompts, settings)
    open_tag = opened_reasoning(_text(loaded, own_prompt[-_NUM_TAIL_TOKENS:]))

    def base_prompt(beginning: Sequence[BaseMessage]) -> list[int]:
        return own_prompt if list(beginning) == list(messages) else render_stream(loaded, beginning, (), settings)

    request = Request(
        prompts,
        coefficients=plan.coefficients,
        realignment=settings.effective_realignment,
        sampling=settings.sampling_params(loaded.model.generation_config),
        logprobs=settings.num_top_logprobs,
        prefix_keys=prefix_keys(
            prompts, messages, resolved, base_prompt, settings.prefix_sharing, is_personal=not plan.is_plain
        ),
        penalised_ids=own_prompt,  # the penalty must not count preferences, which other streams contain
        is_forgotten=partial(_is_forgotten, resolved.num_deletions),
        guide=loaded.constraints.guide(
            settings.output, is_steered=settings.steer_structured, before=_END_OF_REASONING if open_tag else ""
        ),
        timeout_s=settings.timeout,
        trace=plan.compared if settings.trace else None,
    )
    metadata = {**_metadata(asked, settings.effective_realignment), **resolved.notes}
    return Call(loaded.engine, request, _answer(loaded, own_prompt, prompts, settings, open_tag, metadata))


def _answer(
    loaded: LoadedModel,
    own_prompt: Sequence[int],
    prompts: Sequence[Sequence[int]],
    settings: CallSettings,
    open_tag: str,
    metadata: Mapping[str, Any],
) -> Callable[[Generation], AnswerStream]:
    """Return what converts the tokens of a call's answer to message chunks."""
    output = settings.output
    return partial(
        AnswerStream,
        tokenizer=loaded.tokenizer,
        spell=loaded.constraints.spell,
        stop=StopStrings(() if output.is_structure else settings.stop),  # a stop string would cut JSON off
        syntax=_syntax(loaded, output, own_prompt, open_tag),
        num_prompt_tokens=len(own_prompt),
        num_other_tokens=sum(len(prompt) for prompt in prompts if prompt != own_prompt),
        metadata={"model_name": loaded.name, "model_provider": "amulet", "amulet": metadata},
    )


def plan_of(loaded: LoadedModel, resolved: ResolvedPreferences, settings: CallSettings) -> StreamPlan:
    """Return the plan of prompt streams of a call.

    Preferences that consist of control tokens only have no effect, and such opposites are none.
    """
    clean = loaded.renderer.clean
    effective = [
        replace(each, opposite="") if each.opposite and not clean(each.opposite) else each
        for each in preferences_of(resolved)
        if clean(each.text)
    ]
    max_gain = math.inf if settings.is_steered else 1.0
    return plan_streams(effective, settings.realignment, max_streams=settings.max_streams, max_gain=max_gain)


def _is_forgotten(before: int | None) -> bool:
    """Whether a preference was forgotten since `num_deletions()` was `before`."""
    return before is not None and before != num_deletions()


def render(
    loaded: LoadedModel, messages: Sequence[BaseMessage], plan: StreamPlan, settings: CallSettings
) -> list[list[int]]:
    """Return the token ids of each stream's prompt, in the order of the plan; errors as for `render_stream`."""
    return [render_stream(loaded, messages, stream.texts, settings) for stream in plan.streams]


def _own_prompt(
    loaded: LoadedModel,
    messages: Sequence[BaseMessage],
    plan: StreamPlan,
    prompts: Sequence[list[int]],
    settings: CallSettings,
) -> list[int]:
    """Return the caller's own prompt, without preferences: one of the plan's prompts, or rendered if it is not."""
    own = (prompt for stream, prompt in zip(plan.streams, prompts, strict=True) if stream.kind == "base")
    return next(own, None) or render_stream(loaded, messages, (), settings)


@shielded(failed_rendering)
def render_stream(
    loaded: LoadedModel, messages: Sequence[BaseMessage], preferences: Sequence[str], settings: CallSettings
) -> list[int]:
    """Return the token ids of the prompt with these preferences.

    Raises:
        MessageError: The messages or tools cannot be written as a prompt, or the template rejects them.
    """
    output, tool_format = settings.output, loaded.renderer.tool_format
    return loaded.renderer.render(
        messages,
        preferences,
        tools=output.tools if output.may_call else (),
        instructions=instructions(output, tells_choice=not tool_format.is_native),
        wording=settings.preference_template,
        repeat=settings.repeats_preference,
        template_kwargs=settings.chat_template_kwargs,
        sanitize_control_tokens=settings.sanitize_control_tokens,
    )


def _syntax(loaded: LoadedModel, output: OutputSpec, prompt: Sequence[int], open_tag: str) -> AnswerSyntax | None:
    """Return how to find reasoning and tool calls in the answer; `None` if all of it is content."""
    tokenizer, tool_format = loaded.tokenizer, loaded.renderer.tool_format
    has_reasoning = bool(open_tag) or (not output.is_structure and knows_reasoning(tokenizer))
    if output.may_call and output.choice != "any" and not tool_format.is_known:
        return AnswerSyntax(tokenizer.response_template, _text(loaded, prompt), output.tools, shown=None)
    if not output.may_call and not has_reasoning:
        return None
    template = response_template(
        tool_format if output.may_call else None, output.callable_names, has_reasoning=has_reasoning
    )
    return AnswerSyntax(template, open_tag, output.tools)


def _text(loaded: LoadedModel, token_ids: Sequence[int]) -> str:
    text: Any = loaded.tokenizer.decode(list(token_ids))
    return str(text)


def _metadata(plan: StreamPlan, realignment: RealignmentConfig) -> dict[str, Any]:
    """Return what `response_metadata["amulet"]` reports about the realignment."""
    is_combined = len(plan.streams) > 1
    is_contrasted = any(stream.kind == "contrast" for stream in plan.streams)
    return {
        "guidance_scale": 0.0 if plan.is_plain else realignment.guidance_scale,
        "num_streams": len(plan.streams),
        **({"contrast": realignment.contrast} if is_contrasted and realignment.contrast != "base" else {}),
        **(realignment.active_guards if is_combined else {}),
    }
