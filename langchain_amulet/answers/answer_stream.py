"""Converts the token stream of one answer to LangChain message chunks."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from transformers import PreTrainedTokenizerFast

from langchain_amulet.answers.detokenizer import TextStream
from langchain_amulet.answers.parser import AnswerParser, AnswerSyntax, Delta
from langchain_amulet.answers.stop_strings import StopStrings
from langchain_amulet.answers.token_trace import TraceWriter
from langchain_amulet.engine.generation import Generation

_MIN_LOGPROB = -9999.0  # OpenAI's value for very unlikely tokens; JSON has no infinity

_TOOL_ERRORS = "tool_errors"


def with_tool_errors(result: ChatResult) -> ChatResult:
    """Return the result of a call with the errors of its invalid tool calls, which LangChain drops when it adds chunks.

    They are in `response_metadata["tool_errors"]`, by id of the call.
    """
    for generation in result.generations:
        message = generation.message
        errors = message.response_metadata.get(_TOOL_ERRORS, {})
        if errors and isinstance(message, AIMessage):
            message.invalid_tool_calls = [
                {**call, "error": errors.get(call["id"], call["error"])} for call in message.invalid_tool_calls
            ]
    return result


class AnswerStream:
    """Converts the tokens of one answer to message chunks.

    Args:
        generation: The engine's token stream; cancelled when a stop string ends the answer.
        tokenizer: Decodes tokens to text.
        stop: Stop strings.
        spell: Returns the bytes of one token.
        syntax: How to find reasoning and tool calls in the text; `None` if all text is content.
        num_prompt_tokens: Number of tokens of the caller's own prompt.
        num_other_tokens: Number of tokens of the other streams' prompts together.
        metadata: Entries of `response_metadata` other than the finish reason and the log-probabilities.
    """

    def __init__(
        self,
        generation: Generation,
        tokenizer: PreTrainedTokenizerFast,
        *,
        stop: StopStrings,
        spell: Callable[[int], bytes],
        syntax: AnswerSyntax | None,
        num_prompt_tokens: int,
        num_other_tokens: int,
        metadata: Mapping[str, Any],
    ) -> None:
        self.generation = generation
        self._spell = spell
        self._text = TextStream(tokenizer, stop, syntax.shown if syntax else ())
        self._parser = AnswerParser(syntax) if syntax else None
        self._num_prompt_tokens, self._num_other_tokens = num_prompt_tokens, num_other_tokens
        self._metadata = metadata
        self._num_tokens = 0
        self._num_reported = 0  # tokens whose log-probabilities have been emitted
        self._trace = TraceWriter(spell) if generation.is_traced else None
        self._num_traced = 0  # tokens whose trace has been emitted

    def push(self, token_id: int) -> ChatGenerationChunk | None:
        """Add one token; return a chunk if it makes part of the answer final, else `None`."""
        if self._text.is_stopped:  # this token was drawn before the engine was cancelled
            return None
        self._num_tokens += 1
        text = self._text.push(token_id)
        if self._text.is_stopped:
            self.generation.cancel()
        delta = self._parser.push(text) if self._parser else Delta(text)
        return ChatGenerationChunk(message=self._message(delta)) if delta else None

    def finish(self) -> Iterator[ChatGenerationChunk]:
        """End the answer; yield a chunk of the text held back so far, if any, and one of metadata and token usage.

        They are separate because LangChain's event streams ignore tool calls in the last chunk.
        """
        if delta := self._last_delta(self._text.finish()):
            yield ChatGenerationChunk(message=self._message(delta))
        metadata = {**self._metadata, "finish_reason": self._finish_reason()}
        if self._trace:
            trace = self._new_trace(self._trace, is_last=True)
            metadata["amulet"] = {**metadata["amulet"], "trace": trace, "trace_summary": self._trace.summary()}
        if self._parser and self._parser.errors:
            metadata[_TOOL_ERRORS] = self._parser.errors
        message = self._message(Delta(), metadata, chunk_position="last", usage_metadata=self._usage())
        yield ChatGenerationChunk(message=message)

    def _last_delta(self, text: str) -> Delta:
        return self._parser.finish(text) if self._parser else Delta(text)

    def _message(self, delta: Delta, metadata: Mapping[str, Any] | None = None, **fields: Any) -> AIMessageChunk:
        logprobs = self._new_logprobs()
        if self._trace and metadata is None and (trace := self._new_trace(self._trace)):
            metadata = {"amulet": {"trace": trace}}
        return AIMessageChunk(
            content=delta.content,
            additional_kwargs={"reasoning_content": delta.reasoning} if delta.reasoning else {},
            tool_call_chunks=delta.tool_calls,
            response_metadata={**({"logprobs": {"content": logprobs}} if logprobs else {}), **(metadata or {})},
            **fields,
        )

    def _new_logprobs(self) -> list[dict[str, Any]]:
        """Return the log-probabilities of the tokens since the last chunk, in OpenAI's format.

        The end-of-turn token is left out.
        """
        new = self.generation.logprobs[self._num_reported : self._num_tokens]
        self._num_reported += len(new)
        return [
            {
                **self._logprob(entry.token_id, entry.logprob),
                "top_logprobs": [self._logprob(*candidate) for candidate in entry.top if math.isfinite(candidate[1])],
            }
            for entry in new
        ]

    def _logprob(self, token_id: int, logprob: float) -> dict[str, Any]:
        token_bytes = self._spell(token_id)
        text = token_bytes.decode(errors="replace")  # the token may be part of a character
        return {"token": text, "bytes": list(token_bytes), "logprob": max(logprob, _MIN_LOGPROB)}

    def _new_trace(self, writer: TraceWriter, *, is_last: bool = False) -> list[dict[str, Any]]:
        """Return the trace of the tokens since the last chunk; in the last chunk, with the end-of-turn token."""
        has_end = is_last and not self._text.is_stopped and self.generation.finish_reason == "stop"
        traces = self.generation.traces
        new = traces[self._num_traced : None if has_end else self._num_tokens]
        self._num_traced += len(new)
        return writer.write(new, has_end=has_end and len(traces) > self._num_tokens)

    def _finish_reason(self) -> str | None:
        if self._text.is_stopped:
            return "stop"
        reason = self.generation.finish_reason
        return "tool_calls" if reason == "stop" and self._parser and self._parser.has_tool_calls else reason

    def _usage(self) -> UsageMetadata:
        """Return the token usage. `input_tokens` counts the caller's prompt, its details those of other streams."""
        base, others = self._num_prompt_tokens, self._num_other_tokens
        # Tokens drawn after a stop string are not counted; the end-of-turn token is.
        num_generated = self._num_tokens if self._text.is_stopped else len(self.generation.token_ids)
        details: dict[str, int] = {"preference_streams": others} if others else {}
        return UsageMetadata(
            input_tokens=base,
            output_tokens=num_generated,
            total_tokens=base + num_generated,
            input_token_details=InputTokenDetails(**details),  # type: ignore[typeddict-item] # extra keys are allowed
        )
