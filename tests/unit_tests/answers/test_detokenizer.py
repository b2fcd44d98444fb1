"""Streams of text: whole characters, stop strings over token borders."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from langchain_amulet.answers.detokenizer import TextStream
from langchain_amulet.answers.stop_strings import StopScanner, StopStrings
from tests.fakes.chat_templates import byte_tokenizer

TOKENIZER = byte_tokenizer()
texts = st.text(st.characters(codec="utf-8"), max_size=30)
bytes_ids = st.lists(st.integers(12, 267), max_size=30)  # any bytes, valid text or not


def run(token_ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(TOKENIZER, StopStrings(stop))
    pieces = []
    for token_id in token_ids:
        pieces.append(stream.push(token_id))
        if stream.is_stopped:
            break
    return [*pieces, stream.finish()]


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@given(text=texts)
def test_all_pieces_together_are_the_text(text):
    assert "".join(run(ids_of(text))) == text


@given(token_ids=bytes_ids)
def test_all_pieces_together_are_the_tokenizers_decoding_even_of_broken_characters(token_ids):
    assert "".join(run(token_ids)) == TOKENIZER.decode(token_ids, clean_up_tokenization_spaces=False)


def falling_back_tokenizer() -> PreTrainedTokenizerFast:
    """Words of a SentencePiece kind, with bytes to fall back to, as in Llama 2, Mistral and Gemma."""
    tokens = ["<unk>", "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *"abc"]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


FALLING_BACK = falling_back_tokenizer()


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁\ufffd"), max_size=20))
def test_byte_fallback_tokenizers_stream_any_text(text):
    stream = TextStream(FALLING_BACK)
    pieces = [stream.push(token_id) for token_id in FALLING_BACK.encode(text, add_special_tokens=False)]
    assert "".join([*pieces, stream.finish()]) == text


@given(token_ids=st.lists(st.integers(2, 260), max_size=20))
def test_byte_fallback_tokenizers_stream_broken_characters_without_an_error(token_ids):
    stream = TextStream(FALLING_BACK)
    pieces = [stream.push(token_id) for token_id in token_ids]
    assert bool("".join([*pieces, stream.finish()])) == bool(FALLING_BACK.backend_tokenizer.decode(token_ids))


def test_characters_of_several_tokens_come_out_whole():
    pieces = run(ids_of("a👩‍🚀é漢"))
    assert [piece for piece in pieces if piece] == ["a", "👩", "\u200d", "🚀", "é", "漢"]


def test_an_unfinished_character_at_the_end_is_not_lost():
    assert "".join(run(ids_of("a漢")[:-1])) == "a\ufffd"


@given(text=st.text("abc", max_size=30), stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_ends_at_the_earliest_stop_string_and_never_shows_any_of_it(text, stop):
    pieces = run(ids_of(text), tuple(stop))
    # The stop string that is complete first ends the answer; of those that are complete at once, the one that began first.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    expected = text[: min(start for end, start in ends if end == min(ends)[0])] if ends else text
    assert "".join(pieces) == expected


@given(text=st.text("ab", min_size=1, max_size=20))
def test_text_that_may_begin_a_stop_string_is_held_back_only_until_that_is_decided(text):
    stream = TextStream(TOKENIZER, StopStrings(["aab"]))
    shown = ""
    for n, token_id in enumerate(ids_of(text), start=1):
        shown += stream.push(token_id)
        if stream.is_stopped:
            return
        held = text[len(shown) : n]
        assert held in {"", "a", "aa"}
        assert held or not text[:n].endswith("a")


def test_special_tokens_are_not_shown():
    end_of_turn = cast("int", TOKENIZER.convert_tokens_to_ids("<|im_end|>"))
    assert "".join(run([*ids_of("a"), end_of_turn, *ids_of("b")])) == "ab"


def test_stop_string_completed_by_the_last_bytes_is_found():
    token_ids = ids_of("x漢")[:-1]  # decodes to x and a replacement character, at the end only
    assert "".join(run(token_ids, ("\ufffd",))) == "x"


@pytest.mark.parametrize("stop", ["b", "é"])
def test_finish_after_a_stop_adds_nothing(stop):
    stream = TextStream(TOKENIZER, StopStrings([stop]))
    pieces = [stream.push(token_id) for token_id in ids_of(f"a{stop}")]
    assert stream.is_stopped
    assert ("".join(pieces), stream.finish()) == ("a", "")


class CountingBackend:
    """Counts the tokens that a tokenizer decodes."""

    def __init__(self, backend: Tokenizer) -> None:
        self.num_decoded = 0
        self._backend = backend

    def decode(self, token_ids: list[int], **options: bool) -> str:
        self.num_decoded += len(token_ids)
        return self._backend.decode(token_ids, **options)


def num_decoded(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> int:
    """Count the tokens that are decoded while these tokens stream."""
    stream = TextStream(tokenizer)
    backend = CountingBackend(tokenizer.backend_tokenizer)
    stream._backend = cast("Tokenizer", backend)
    for token_id in token_ids:
        stream.push(token_id)
    stream.finish()
    return backend.num_decoded


BROKEN = {
    "stray bytes": (TOKENIZER, ids_of("é")[1:]),
    "leading bytes": (TOKENIZER, ids_of("é")[:1]),
    "bytes to fall back to": (FALLING_BACK, [2 + 0xFF]),
    "special tokens": (TOKENIZER, [cast("int", TOKENIZER.convert_tokens_to_ids("<|im_end|>"))]),
    "replacement characters": (TOKENIZER, ids_of("\ufffd")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_work_grows_with_the_number_of_tokens_though_nothing_is_certain(kind):
    tokenizer, token_ids = BROKEN[kind]
    few, many = (num_decoded(tokenizer, token_ids * num) for num in (200, 2_000))
    assert many <= 11 * few + 100


@pytest.mark.parametrize("kind", ["stray bytes", "leading bytes", "replacement characters"])
@given(before=texts, after=texts, num=st.integers(0, 40))
def test_long_runs_of_broken_characters_stream_as_the_tokenizer_decodes_them(kind, before, after, num):
    token_ids = [*ids_of(before), *BROKEN[kind][1] * num, *ids_of(after)]
    assert "".join(run(token_ids)) == TOKENIZER.decode(token_ids, clean_up_tokenization_spaces=False)


@given(num=st.integers(0, 40), after=st.text("ab漢", max_size=10))
def test_text_after_a_run_of_broken_bytes_is_not_lost(num, after):
    token_ids = [*[2 + 0xFF] * num, *FALLING_BACK.encode("a" + after, add_special_tokens=False)]
    stream = TextStream(FALLING_BACK)
    pieces = [stream.push(token_id) for token_id in token_ids]
    assert "".join([*pieces, stream.finish()]).endswith("a" + after)


@given(
    text=st.text("ab", max_size=20),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    place=st.integers(0, 20),
)
def test_the_end_at_a_stop_string_does_not_depend_on_the_pieces(text, stop, place):
    scanner = StopScanner(StopStrings(stop))
    by_character = "".join(map(scanner.push, text)) + scanner.finish()
    scanner = StopScanner(StopStrings(stop))
    assert scanner.push(text[:place]) + scanner.push(text[place:]) + scanner.finish() == by_character
