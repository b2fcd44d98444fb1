"""Decodes a stream of token ids to text, and ends the text at stop strings."""

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerFast

_REPLACEMENT = "\ufffd"  # decoding of bytes that are not a (complete) character


class TextStream:
    """Decodes tokens incrementally and ends at stop strings.

    A character that spans several tokens is emitted when it is complete. Text that may be the start of a stop string is
    held back until later tokens decide. The concatenated pieces equal the tokenizer's decoding of all tokens, cut at
    the earliest stop string. There is one exception: bytes that do not form a character become U+FFFD, and a tokenizer
    with byte fallback that decodes all tokens at once may also replace valid characters beside them.

    Args:
        tokenizer: The model's fast tokenizer.
        stop: Stop strings; they are not part of the text.
        shown: Special tokens to keep in the text, by content; `None` keeps all.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = (), shown: Collection[str] | None = ()
    ) -> None:
        self._backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._hidden = {i for i, token in added if token.special and shown is not None and token.content not in shown}
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        # The text of tokens before _num_decoded is final. Decoding starts at _context, because the tokens from there to
        # _num_decoded determine whether a space precedes the new text.
        self._context = self._num_decoded = 0
        self._pending = ""
        self.is_stopped = False
        """Whether the text has reached a stop string."""

    def push(self, token_id: int) -> str:
        """Add one token; return the text that has become final, possibly of earlier tokens and possibly empty."""
        self._token_ids.append(token_id)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):  # possibly within a character
            return ""
        self._context, self._num_decoded = self._num_decoded, len(self._token_ids)
        return self._release(text)

    def finish(self) -> str:
        """End the text; return the rest that was held back."""
        if self.is_stopped:
            return ""
        rest = self._release(self._new_text())
        return rest if self.is_stopped else rest + self._take(len(self._pending))

    def _new_text(self) -> str:
        previous, current = self._decode(self._num_decoded), self._decode(len(self._token_ids))
        return current[len(previous) :]

    def _decode(self, end: int) -> str:
        shown = [token_id for token_id in self._token_ids[self._context : end] if token_id not in self._hidden]
        text: str = self._backend.decode(shown, skip_special_tokens=False)
        return text

    def _release(self, text: str) -> str:
        self._pending += text
        starts = [index for index in map(self._pending.find, self._stop) if index >= 0]
        if starts:
            self.is_stopped = True
            return self._take(min(starts))
        return self._take(len(self._pending) - self._num_undecided())

    def _take(self, length: int) -> str:
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken

    def _num_undecided(self) -> int:
        """Return the length of the longest suffix of the pending text that is a prefix of a stop string."""
        longest = min(len(self._pending), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._pending[-n:]) for s in self._stop)), 0)
