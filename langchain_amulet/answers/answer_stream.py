"""From generated tokens to LangChain's message chunks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk
from transformers import PreTrainedTokenizerFast

from langchain_amulet.answers.detokenizer import TextStream
from langchain_amulet.answers.parser import AnswerParser, AnswerSyntax, Delta
from langchain_amulet.engine.generation import Generation

_LEAST_LOGPROB = -9999.0  # what OpenAI reports for tokens that are next to impossible; JSON has no infinity


class AnswerStream:
    """One answer in the making: tokens go in, chunks come out.

    Args:
        generation: The tokens; cancelled as soon as the answer has all it needs.
        tokenizer: Turns them into text.
        spell: Turns one of them into bytes.
        stop: Texts that end the answer.
        reading: How the parts of the text are told apart; `None` if all of it is content.
        num_prompt_tokens: Tokens of each stream's prompt, the base stream first.
        metadata: What `response_metadata` says besides why the answer ended.
    """

    def __init__(
        self,
        generation: Generation,
        tokenizer: PreTrainedTokenizerFast,
        *,
        stop: Sequence[str],
        spell: Callable[[int], bytes],
        reading: AnswerSyntax | None,
        num_prompt_tokens: Sequence[int],
        metadata: Mapping[str, Any],
    ) -> None:
        self.generation = generation
        self._spell = spell
        self._text = TextStream(tokenizer, stop, reading.shown if reading else ())
        self._parser = AnswerParser(reading) if reading else None
        self._num_prompt_tokens = num_prompt_tokens
        self._metadata = metadata
        self._num_tokens = 0
        self._num_told = 0  # tokens whose log-probabilities went out

    def push(self, token_id: int) -> ChatGenerationChunk | None:
        """Take one token; returns a chunk if it makes some of the answer certain."""
        if self._text.is_stopped:  # what comes now was drawn before the engine knew
            return None
        self._num_tokens += 1
        text = self._text.push(token_id)
        if self._text.is_stopped:
            self.generation.cancel()
        delta = self._parser.push(text) if self._parser else Delta(text)
        return ChatGenerationChunk(message=self._message(delta)) if delta else None

    def finish(self) -> Iterator[ChatGenerationChunk]:
        """The last chunks: what was held back, and then, once per answer, what is told of it as a whole.

        In two, since LangChain's event streams take no tool calls from a last chunk.
        """
        if delta := self._last_delta(self._text.finish()):
            yield ChatGenerationChunk(message=self._message(delta))
        metadata = {**self._metadata, "finish_reason": self._finish_reason()}
        message = self._message(Delta(), metadata, chunk_position="last", usage_metadata=self._usage())
        yield ChatGenerationChunk(message=message)

    def _last_delta(self, text: str) -> Delta:
        if self._parser is None:
            return Delta(text)
        return self._parser.finish(text)

    def _message(self, delta: Delta, metadata: Mapping[str, Any] | None = None, **fields: Any) -> AIMessageChunk:
        logprobs = self._new_logprobs()
        return AIMessageChunk(
            content=delta.content,
            additional_kwargs={"reasoning_content": delta.reasoning} if delta.reasoning else {},
            tool_call_chunks=delta.tool_calls,
            response_metadata={**({"logprobs": {"content": logprobs}} if logprobs else {}), **(metadata or {})},
            **fields,
        )

    def _new_logprobs(self) -> list[dict[str, Any]]:
        """Of the tokens since the last chunk; the one that ended the answer is none of it."""
        new = self.generation.logprobs[self._num_told : self._num_tokens]
        self._num_told += len(new)
        return [
            {
                **self._logprob(entry.token_id, entry.logprob),
                "top_logprobs": [self._logprob(*each) for each in entry.top if math.isfinite(each[1])],
            }
            for entry in new
        ]

    def _logprob(self, token_id: int, logprob: float) -> dict[str, Any]:
        spelled = self._spell(token_id)
        text = spelled.decode(errors="replace")  # a part of a character is none
        return {"token": text, "bytes": list(spelled), "logprob": max(logprob, _LEAST_LOGPROB)}

    def _finish_reason(self) -> str | None:
        if self._text.is_stopped:
            return "stop"
        reason = self.generation.finish_reason
        return "tool_calls" if reason == "stop" and self._parser and self._parser.has_tool_calls else reason

    def _usage(self) -> UsageMetadata:
        """Counts the base prompt as input; what the preference streams read besides is a detail of it."""
        base, *prefs = self._num_prompt_tokens
        # Tokens drawn after a stop string are not the answer's; the one that ended it, if one did, never comes here.
        num_generated = self._num_tokens if self._text.is_stopped else len(self.generation.token_ids)
        details: dict[str, int] = {"preference_streams": sum(prefs)} if prefs else {}
        return UsageMetadata(
            input_tokens=base,
            output_tokens=num_generated,
            total_tokens=base + num_generated,
            input_token_details=InputTokenDetails(**details),  # type: ignore[typeddict-item] # extra keys are allowed
        )
