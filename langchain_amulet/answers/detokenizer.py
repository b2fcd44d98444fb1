"""Decodes a stream of token ids to text, and ends the text at stop strings."""

from collections.abc import Collection

from transformers import PreTrainedTokenizerFast

from langchain_amulet.answers.stop_strings import NO_STOP, StopScanner, StopStrings

_REPLACEMENT = "\ufffd"  # decoding of bytes that are not a (complete) character
_MAX_UNDECIDED = 16  # tokens; a character has up to 4 bytes, so the bytes of more tokens are broken
_WINDOW = 8  # tokens that are decoded again after that; more than the bytes of a character


class TextStream:
    """Decodes tokens incrementally and ends at stop strings.

    A character that spans several tokens is emitted when it is complete. Text that may be the start of a stop string is
    held back until later tokens decide. The concatenated pieces equal the tokenizer's decoding of all tokens, up to the
    stop string that is complete first. There is one exception: bytes that do not form a character become U+FFFD, and a
    tokenizer with byte fallback that decodes all tokens at once may also replace valid characters beside them.

    Each token is decoded a bounded number of times, whatever the text.

    Args:
        tokenizer: The model's fast tokenizer.
        stop: Stop strings; they are not part of the text.
        shown: Special tokens to keep in the text, by content; `None` keeps all.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop: StopStrings = NO_STOP, shown: Collection[str] | None = ()
    ) -> None:
        self._backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._hidden = {i for i, token in added if token.special and shown is not None and token.content not in shown}
        self._scanner = StopScanner(stop)
        # The last tokens, and the part of their text that is final. Tokens of which all text is final stay here as
        # context, because they determine whether a space precedes the new text.
        self._token_ids: list[int] = []
        self._final = ""
        self._num_final = 0  # tokens of which all text is final

    @property
    def is_stopped(self) -> bool:
        """Whether the text has reached a stop string."""
        return self._scanner.is_stopped

    def push(self, token_id: int) -> str:
        """Add one token; return the text that has become final, possibly of earlier tokens and possibly empty."""
        if token_id in self._hidden:
            return ""
        self._token_ids.append(token_id)
        text = self._new_text()
        if text and not text.endswith(_REPLACEMENT):
            self._keep(self._num_final, held="")
        elif len(self._token_ids) - self._num_final > _MAX_UNDECIDED:  # not within a character, but broken bytes
            held = _REPLACEMENT if text else ""  # the last one may still be the start of a character
            text = text.removesuffix(held)
            self._keep(len(self._token_ids) - _WINDOW, held)
        else:
            return ""
        return self._scanner.push(text)

    def finish(self) -> str:
        """End the text; return the rest that was held back."""
        return self._scanner.finish(self._new_text())

    def _new_text(self) -> str:
        text = self._decode()
        if self._final.endswith(_REPLACEMENT) and not text.startswith(self._final):
            return text  # bytes that seemed broken have become characters; this happens with byte fallback only
        return text[len(self._final) :]

    def _keep(self, start: int, held: str) -> None:
        """Keep the tokens from `start` on; their text is final except for `held` at its end."""
        self._token_ids = self._token_ids[start:]
        self._num_final = len(self._token_ids)
        self._final = self._decode().removesuffix(held)

    def _decode(self) -> str:
        text: str = self._backend.decode(self._token_ids, skip_special_tokens=False)
        return text
