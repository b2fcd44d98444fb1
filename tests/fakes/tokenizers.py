"""Tokenizers that differ in how they split, normalise and join text, with one chat template and its control tokens."""

from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.fakes.chat_templates import CONTROL_TOKENS, SMOLLM2, byte_tokenizer

_MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
_LETTERS = [chr(code) for code in range(33, 127)]


def _finished(backend: Tokenizer, *, normalized: bool = False) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(text, special=True, normalized=normalized) for text in CONTROL_TOKENS])
    backend.add_tokens([AddedToken(text, special=False, normalized=normalized) for text in _MARKERS])
    template = SMOLLM2 + "{# <tool_call></tool_call><think></think> #}"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=template
    )


def _bytes() -> PreTrainedTokenizerFast:
    return _finished(byte_tokenizer().backend_tokenizer)


def _sentence_pieces(prepend: str) -> PreTrainedTokenizerFast:
    """Letters and bytes as in SentencePiece; a space before the text, or also after each control token."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: number for number, token in enumerate(["<unk>", *fallback, "▁", *_LETTERS])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if prepend == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = [decoders.Strip(" ", 1, 0)]
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend, split=False)
        strip = [decoders.Strip(" ", 1, 0)] if prepend != "never" else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _finished(backend)


def normalising_tokenizer() -> PreTrainedTokenizerFast:
    """Control tokens are searched in normalised text, so that look-alikes of them become control tokens."""
    backend = byte_tokenizer().backend_tokenizer
    steps = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("\u200b", "")]
    backend.normalizer = normalizers.Sequence(steps)
    fresh = Tokenizer(backend.model)
    fresh.normalizer, fresh.pre_tokenizer, fresh.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
    return _finished(fresh, normalized=True)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": _bytes,
    "space before the text": lambda: _sentence_pieces("first"),
    "space before each part": lambda: _sentence_pieces("always"),
    "no space before the text": lambda: _sentence_pieces("never"),
    "space by normalisation": lambda: _sentence_pieces("legacy"),
}
