"""Encodes text to token ids, and refuses text that no tokenizer can encode."""

import re

from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import InvalidParameterError, MessageError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens around it.

    Raises:
        InvalidParameterError: `text` is not a string.
        MessageError: `text` contains a lone surrogate.
    """
    if not isinstance(text, str):
        msg = f"A text to encode must be a string, got {type(text).__name__}. Pass the text of a message or answer."
        raise InvalidParameterError(msg)
    check_encodable(text)
    token_ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return token_ids


def check_encodable(text: str) -> None:
    """Raise `MessageError` if a text contains a lone surrogate."""
    if _LONE_SURROGATE.search(text):
        msg = (
            "A message, tool, schema or response contains a lone surrogate, which UTF-8 cannot encode. Decode the text "
            'again, or replace it: text.encode("utf-8", "replace").decode().'
        )
        raise MessageError(msg)
