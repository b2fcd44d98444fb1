"""From a stream of token ids to a stream of text."""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast


class TextStream:
    """Turns tokens into text as they come, and ends at stop strings.

    Characters made of several tokens come out whole, and text that may be the beginning of a stop string is held back
    until that is decided. All the text together equals the tokenizer's own decoding of all the tokens, cut at the
    earliest stop string.

    Args:
        tokenizer: The model's fast tokenizer.
        stop: Texts that end the answer; they are not part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        self._decoded = ""
        self._pending = ""
        self.is_stopped = False
        """Whether a stop string has come."""

    def push(self, token_id: int) -> str:
        """Take one token; returns the text that is certain now, often of earlier tokens, possibly none."""
        self._token_ids.append(token_id)
        text = self._decoder.step(self._tokenizer.backend_tokenizer, token_id)
        return self._release(text) if text else ""

    def finish(self) -> str:
        """Take the end of the answer; returns what was held back."""
        if self.is_stopped:
            return ""
        whole: str = self._tokenizer.backend_tokenizer.decode(self._token_ids, skip_special_tokens=True)
        # An answer that ends within a character leaves bytes with the decoder.
        rest = self._release(whole.removeprefix(self._decoded)) if whole.startswith(self._decoded) else ""
        return rest if self.is_stopped else rest + self._take(len(self._pending))

    def _release(self, text: str) -> str:
        self._decoded += text
        self._pending += text
        found = [index for index in map(self._pending.find, self._stop) if index >= 0]
        if found:
            self.is_stopped = True
            return self._take(min(found))
        return self._take(len(self._pending) - self._undecided())

    def _take(self, length: int) -> str:
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken

    def _undecided(self) -> int:
        """Length of the longest end of the pending text that begins a stop string."""
        longest = min(len(self._pending), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._pending[-n:]) for s in self._stop)), 0)
