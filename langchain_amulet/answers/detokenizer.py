"""From a stream of token ids to a stream of text."""

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerFast

_REPLACEMENT = "\ufffd"  # stands for bytes that are no character, or not yet


class TextStream:
    """Turns tokens into text as they come, and ends at stop strings.

    Characters made of several tokens come out whole, and text that may be the beginning of a stop string is held back
    until that is decided. All the text together is the tokenizer's own decoding of all the tokens, cut at the earliest
    stop string. (Bytes that form no character are replaced; tokenizers that fall back to bytes may replace their valid
    neighbours too when they see all of them at once.)

    Args:
        tokenizer: The model's fast tokenizer.
        stop: Texts that end the answer; they are not part of it.
        shown: Control tokens that are part of the text, by their names; `None` shows all.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = (), shown: Collection[str] | None = ()
    ) -> None:
        self._backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._hidden = {i for i, token in added if token.special and shown is not None and token.content not in shown}
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        # Tokens before _context are of no consequence; those from _context to _shown give the spacing of what follows.
        self._context = self._shown = 0
        self._pending = ""
        self.is_stopped = False
        """Whether a stop string has come."""

    def push(self, token_id: int) -> str:
        """Take one token; returns the text that is certain now, often of earlier tokens, possibly none."""
        self._token_ids.append(token_id)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):  # within a character, perhaps
            return ""
        self._context, self._shown = self._shown, len(self._token_ids)
        return self._release(text)

    def finish(self) -> str:
        """Take the end of the answer; returns what was held back."""
        if self.is_stopped:
            return ""
        rest = self._release(self._new_text())
        return rest if self.is_stopped else rest + self._take(len(self._pending))

    def _new_text(self) -> str:
        known, whole = self._decode(self._shown), self._decode(len(self._token_ids))
        return whole[len(known) :]

    def _decode(self, end: int) -> str:
        shown = [token_id for token_id in self._token_ids[self._context : end] if token_id not in self._hidden]
        text: str = self._backend.decode(shown, skip_special_tokens=False)
        return text

    def _release(self, text: str) -> str:
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
