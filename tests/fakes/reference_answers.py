"""What a call of a chat model must answer, from the plain, slow decoding of `reference_decoding`.

Prompts, guides and parsers are the package's own, which other tests check; nothing of the engine is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from transformers import PreTrainedTokenizerFast

from langchain_amulet import ChatAmulet, Preference, RealignmentConfig
from langchain_amulet.engine.params import Request
from langchain_amulet.engine.sequence import TokenLogprobs
from langchain_amulet.exceptions import AmuletError
from langchain_amulet.stream_plan import NEUTRAL_INSTRUCTION
from tests.fakes.fuzzed_calls import Call
from tests.fakes.reference_decoding import Drawn, decode

_ROLES = {"system": "system", "human": "user", "ai": "assistant"}
TOLERANCE = 1e-6  # nats; models are float64
FLOAT32_TOLERANCE = 1e-4  # nats; of models that compute a part in float32, whatever their dtype


@dataclass
class Decoded:
    """A finished answer in the form in which parsers read one."""

    token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprobs]
    is_traced = False

    def cancel(self) -> None:
        """Do nothing: all tokens are drawn already."""


class Outcome(NamedTuple):
    """What a caller gets: the parts of a message, or the class of an error."""

    error: type[BaseException] | None
    parts: tuple[Any, ...] = ()
    logprobs: Sequence[dict[str, Any]] = ()
    detail: str = ""
    """What the error says; not compared."""


def outcome_of(result: AIMessage | BaseException) -> Outcome:
    """Return what is compared of an answer, which leaves out ids."""
    if isinstance(result, BaseException):
        return Outcome(type(result), detail=str(result))
    metadata = {key: value for key, value in result.response_metadata.items() if key != "logprobs"}
    calls = [(call["name"], call["args"]) for call in result.tool_calls]
    invalid = [(call["name"], call["args"]) for call in result.invalid_tool_calls]
    reasoning = result.additional_kwargs.get("reasoning_content")
    logprobs = result.response_metadata.get("logprobs", {}).get("content", ())
    return Outcome(None, (result.text, reasoning, calls, invalid, metadata, result.usage_metadata), logprobs)


def differs(got: Outcome, expected: Outcome, tolerance: float = TOLERANCE) -> str | None:
    """Return how two outcomes differ, log-probabilities by more than so many nats; `None` if they do not."""
    if got.error is not expected.error or got.parts != expected.parts:
        return f"got {got}\nexpected {expected}"
    if len(got.logprobs) != len(expected.logprobs):
        return f"{len(got.logprobs)} log-probabilities in place of {len(expected.logprobs)}"
    pairs = zip(got.logprobs, expected.logprobs, strict=True)
    return next((f"{one} is not {other}" for one, other in pairs if not _are_close(one, other, tolerance)), None)


def _are_close(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> bool:
    tops = zip(one.get("top_logprobs", ()), other.get("top_logprobs", ()), strict=True)
    is_same = one["bytes"] == other["bytes"] and math.isclose(one["logprob"], other["logprob"], abs_tol=tolerance)
    return is_same and all(_are_close(*pair, tolerance) for pair in tops)


def expected_outcome(llm: ChatAmulet, call: Call, max_cached: int | None = None) -> Outcome:
    """Return what the model must answer; `max_cached` is the most tokens that the engine may cache."""
    try:
        return outcome_of(expected_message(llm, call, max_cached))
    except AmuletError as error:
        return outcome_of(error)


def expected_message(llm: ChatAmulet, call: Call, max_cached: int | None = None) -> AIMessage:
    """Return the message that the model must answer with.

    Raises:
        AmuletError: The model must refuse the call with this error.
    """
    settings = {**call.settings, "preference": call.preferences}
    prepared = llm._prepare(call.messages, settings.pop("stop", None), settings)
    decoded = reported(prepared.request, decode(llm.load().model, prepared.request, max_cached))
    answer = prepared.answer(decoded)
    stops = prepared.request.sampling.stop_token_ids
    chunks = [answer.push(token_id) for token_id in decoded.token_ids if token_id not in stops]
    first, *others = [chunk.message for chunk in (*chunks, *answer.finish()) if chunk is not None]
    message = cast("AIMessageChunk", first + others if others else first)
    return AIMessage(
        message.content,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        tool_calls=message.tool_calls,
        invalid_tool_calls=message.invalid_tool_calls,
    )


def reported(request: Request, drawn: Drawn) -> Decoded:
    """Add the log-probabilities that the request asks for."""
    if (num_top := request.logprobs) is None:
        return Decoded(drawn.token_ids, drawn.finish_reason, [])
    logprobs = []
    for token_id, log_probs in zip(drawn.token_ids, drawn.log_probs, strict=True):
        top = log_probs.sort(descending=True, stable=True)
        pairs = list(zip(top.indices[:num_top].tolist(), top.values[:num_top].tolist(), strict=True))
        logprobs.append(TokenLogprobs(token_id, log_probs[token_id].item(), pairs))
    return Decoded(drawn.token_ids, drawn.finish_reason, logprobs)


def planned_streams(preferences: Sequence[Preference], realignment: RealignmentConfig) -> list[tuple[str, ...]]:
    """Return the texts of each stream, as `docs/` explains them. No opposite may be the text of a preference."""
    likes: list[tuple[float, str, str | None]] = []
    dislikes: list[tuple[float, str, str | None]] = []
    for each in preferences:
        gain = each.weight * realignment.guidance_scale
        text, opposite = each.text, each.opposite if realignment.contrast == "opposite" else None
        if not gain or not text.strip():
            continue
        if gain < 0 and opposite:
            gain, text, opposite = -gain, opposite, text
        (likes if gain > 0 else dislikes).append((abs(gain), text, opposite))
    strongest = max((gain for gain, *_ in likes), default=0.0)
    streams = [()] if strongest < 1 or dislikes else []
    streams += [tuple(text for _, text, _ in joint) for side in (likes, dislikes) for _, joint in levels_of(side)]
    for gain, joint in levels_of(likes):
        if gain > 1 and realignment.contrast == "neutral":
            streams.append((NEUTRAL_INSTRUCTION,))
        elif gain > 1:
            streams.append(tuple(dict.fromkeys(opposite for *_, opposite in joint if opposite)))
    return [*dict.fromkeys([()] * (() in streams) + streams)]


def levels_of(wishes: list[Any]) -> list[tuple[float, list[Any]]]:
    """Return each gain, the largest first, with the wishes of at least this gain."""
    levels = sorted({gain for gain, *_ in wishes}, reverse=True)
    return [(level, [wish for wish in wishes if wish[0] >= level]) for level in levels]


def rendered_streams(tokenizer: PreTrainedTokenizerFast, default_system: str, call: Call) -> list[list[int]]:
    """Render each stream's prompt of a conversation that begins with a system message or a user's."""
    turns = [{"role": _ROLES[message.type], "content": message.text} for message in call.messages]
    if turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": default_system})
    prompts = []
    for chosen in planned_streams(call.preferences, call.settings["realignment"]):
        chosen_text = "\n".join(map(str.strip, chosen))
        written = [_appended(turns[0], chosen_text), *turns[1:]]
        if call.settings["realignment"].repeat_preference:
            last = max(index for index, turn in enumerate(turns) if turn["role"] == "user")
            written[last] = _appended(turns[last], chosen_text)
        text = tokenizer.apply_chat_template(written, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False).input_ids)
    return prompts


def _appended(turn: dict[str, str], text: str) -> dict[str, str]:
    return {**turn, "content": "\n\n".join(filter(None, [turn["content"], text]))}


def plain_text(tokenizer: PreTrainedTokenizerFast, token_ids: list[int], stops: Sequence[str]) -> tuple[str, int, bool]:
    """Return the text of an answer, the number of its tokens up to a stop string, and whether there is one."""
    for length in range(1, len(token_ids) + 1):
        text = cast("str", tokenizer.decode(token_ids[:length], skip_special_tokens=True))
        found = [index for index in map(text.find, stops) if index >= 0]
        is_certain = not text.endswith("\ufffd") or length == len(token_ids)
        if found and is_certain:
            return text[: min(found)], length, True
    return cast("str", tokenizer.decode(token_ids, skip_special_tokens=True)), len(token_ids), False
