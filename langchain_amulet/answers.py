"""From generated tokens to LangChain's message chunks."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk
from transformers import PreTrainedTokenizerFast

from langchain_amulet.detokenizer import TextStream
from langchain_amulet.engine.generation import Generation


class Answer:
    """One answer in the making: tokens go in, chunks come out.

    Args:
        generation: The tokens; cancelled as soon as the answer has all it needs.
        tokenizer: Turns them into text.
        stop: Texts that end the answer.
        num_prompt_tokens: Tokens of each stream's prompt, the base stream first.
        metadata: What `response_metadata` says besides why the answer ended.
    """

    def __init__(
        self,
        generation: Generation,
        tokenizer: PreTrainedTokenizerFast,
        *,
        stop: Sequence[str],
        num_prompt_tokens: Sequence[int],
        metadata: Mapping[str, Any],
    ) -> None:
        self.generation = generation
        self._text = TextStream(tokenizer, stop)
        self._num_prompt_tokens = num_prompt_tokens
        self._metadata = metadata
        self._num_tokens = 0

    def push(self, token_id: int) -> ChatGenerationChunk | None:
        """Take one token; returns a chunk if it makes some text certain."""
        if self._text.is_stopped:  # what comes now was drawn before the engine knew
            return None
        self._num_tokens += 1
        text = self._text.push(token_id)
        if self._text.is_stopped:
            self.generation.cancel()
        return ChatGenerationChunk(message=AIMessageChunk(content=text)) if text else None

    def finish(self) -> ChatGenerationChunk:
        """The last chunk: text held back, and once per answer what is told of it as a whole."""
        text = self._text.finish()
        finish_reason = "stop" if self._text.is_stopped else self.generation.finish_reason
        message = AIMessageChunk(
            content=text,
            chunk_position="last",
            usage_metadata=self._usage(),
            response_metadata={**self._metadata, "finish_reason": finish_reason},
        )
        return ChatGenerationChunk(message=message)

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
