"""Structures within free text: guidance acts on the text, not on the structures nor on whether one begins."""

from functools import partial
from typing import cast

import pytest
import torch

from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.grammar import GrammarCompiler
from langchain_amulet.structured.triggered import TriggeredGuide
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import VOCAB_SIZE

EOS = 2
TOKENIZER = byte_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS])
BODY = COMPILER.compile('start: "[" /[0-9]+/ "]"')
MARKER = b"<go>"


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def text_of(token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
    return cast("str", TOKENIZER.decode(token_ids, skip_special_tokens=skip_special_tokens))


def new_guide(_max_tokens: int = 0, *, is_leading: bool = False, is_steered: bool = False) -> TriggeredGuide:
    return TriggeredGuide(
        COMPILER.vocabulary,
        MARKER,
        BODY,
        lambda behind: None if behind else b"",
        num_needed=len(MARKER) + len(BODY.shortest),
        is_leading=is_leading,
        is_steered=is_steered,
    )


def follow(guide: TriggeredGuide, text: str, num_left: int = 100) -> None:
    for token_id in ids(text):
        assert guide.accept(token_id, num_left) == token_id


def allowed_text(guide: TriggeredGuide, num_left: int = 100) -> str | None:
    allowed = guide.allowed(num_left)
    return None if allowed is None else text_of(allowed.nonzero().flatten().tolist(), skip_special_tokens=True)


def opening_text(guide: TriggeredGuide) -> str | None:
    opening = guide.opening()
    return None if opening is None else text_of(opening.nonzero().flatten().tolist())


def test_text_is_free_and_steered():
    guide = new_guide()
    follow(guide, "some text, 3 > 2")
    assert guide.is_steered
    assert allowed_text(guide) is None
    assert opening_text(guide) == "<"


def test_marker_that_has_begun_is_not_steered_until_it_turns_out_to_be_text():
    guide = new_guide()
    follow(guide, "a <g")
    assert not guide.is_steered
    assert guide.opening() is None
    follow(guide, "a")
    assert guide.is_steered


def test_grammar_applies_after_the_marker_and_free_text_after_the_structure():
    guide = new_guide()
    follow(guide, "a <go>")
    assert not guide.is_steered
    assert allowed_text(guide) == "["
    follow(guide, "[12]")
    assert guide.is_steered
    assert allowed_text(guide) is None
    follow(guide, " and <go>")
    assert allowed_text(guide) == "["


def test_leading_structure_is_the_whole_answer():
    guide = new_guide(is_leading=True)
    assert opening_text(guide) is not None
    follow(guide, "\n<go>[1")
    assert not guide.is_complete
    follow(guide, "]")
    assert guide.is_complete


def test_leading_structure_cannot_begin_later():
    guide = new_guide(is_leading=True)
    follow(guide, "so <go>")
    assert guide.is_steered
    assert allowed_text(guide) is None
    assert guide.opening() is None


def test_structure_does_not_begin_if_it_could_not_end():
    guide = new_guide()
    assert "<" in allowed_text(guide, num_left=4)
    assert allowed_text(guide, num_left=8) is None
    follow(guide, "a <g", num_left=4)
    assert "o" not in allowed_text(guide, num_left=4)


def test_structure_ends_within_the_budget():
    guide = new_guide()
    follow(guide, "<go>[", num_left=5)
    tokens = [guide.accept(ids("7")[0], left) for left in (3, 2, 1)]
    assert text_of(tokens).endswith("]")


def test_structure_in_another_layout_is_not_constrained():
    guide = TriggeredGuide(COMPILER.vocabulary, b"<go", BODY, lambda behind: None if behind == b">" else b"")
    guide.accept(ids("<")[0], 9)
    guide.accept(ids("g")[0], 8)
    guide.accept(ids("o")[0], 7)
    assert allowed_text(guide) == "["


def test_structure_goes_on_where_the_token_with_the_marker_has_left_off():
    whole, begun = BODY.start(20), BODY.start(20, written=b"[4")
    for token_id in ids("[4"):
        whole.accept(token_id, 20)
    assert torch.equal(begun.allowed(20), whole.allowed(20))
    assert text_of([begun.accept(ids("7")[0], left) for left in (2, 1)]) == "7]"


def test_stop_token_completes_the_answer():
    guide = new_guide()
    follow(guide, "a")
    guide.accept(EOS, 5)
    assert guide.is_complete


# The decision whether a structure begins


def draw(base: dict[str, float], pref: dict[str, float], *, text: str = "", is_steered: bool = False) -> str:
    """Return the token that a request with these next-token logits draws at guidance scale 4."""
    sampling = SamplingParams(max_tokens=50, stop_token_ids=frozenset([EOS]))
    request = Request(
        [[5], [6]], [1.0], RealignmentConfig(guidance_scale=4.0, plausibility=0.0), sampling,
        guide=partial(new_guide, is_steered=is_steered),
    )  # fmt: skip
    sequence = Sequence(request, max_length=100)
    for token_id in ids(text):
        sequence.append(sequence.guide.accept(token_id, sequence.num_left), None)
    logits = torch.full((2, VOCAB_SIZE), -30.0)
    for row, by_character in enumerate((base, pref)):
        for character, logit in by_character.items():
            logits[row, ids(character)[0]] = logit
    Batch([sequence], [[0, 1]]).draw(logits)
    return text_of([sequence.token_ids[-1]])


EAGER_BASE, EAGER_PREF = (
    {"a": 3.0, "<": 0.0},
    {"a": 3.0, "<": 2.0},
)  # the most likely token is a at scale 1, and < at scale 4
SHY_BASE, SHY_PREF = {"a": 0.0, "<": 5.0}, {"a": 2.0, "<": 3.0}  # and the other way round


def test_guidance_does_not_begin_a_structure():
    assert draw(EAGER_BASE, EAGER_PREF) == "a"


def test_guidance_does_not_prevent_a_structure():
    assert draw(SHY_BASE, SHY_PREF) == "<"


def test_guidance_decides_if_structure_is_steered():
    assert draw(EAGER_BASE, EAGER_PREF, is_steered=True) == "<"
    assert draw(SHY_BASE, SHY_PREF, is_steered=True) == "a"


def test_guidance_acts_on_words():
    assert draw({"a": 3.0, "b": 2.0}, {"a": 3.0, "b": 2.9}) == "b"


@pytest.mark.parametrize(("is_steered", "drawn"), [(False, "1"), (True, "2")])
def test_guidance_acts_within_the_structure_only_if_asked_to(is_steered, drawn):
    base, pref = {"1": 3.0, "2": 2.0, "x": 9.0}, {"1": 3.0, "2": 2.9, "x": 9.0}
    assert draw(base, pref, text="<go>[", is_steered=is_steered) == drawn


def test_sampled_decisions_have_the_probability_of_the_prompted_policy():
    base, pref = {"a": 1.0, "b": 1.0, "<": -3.0}, {"a": 1.0, "b": 0.0, "<": 1.0}
    logits = torch.full((2, VOCAB_SIZE), -30.0)
    for row, by_character in enumerate((base, pref)):
        for character, logit in by_character.items():
            logits[row, ids(character)[0]] = logit
    config, number = RealignmentConfig(guidance_scale=4.0, plausibility=0.0), 4000
    sequences = [
        Sequence(
            Request([[5], [6]], [1.0], config, SamplingParams(temperature=1.0, seed=seed), guide=new_guide),
            max_length=100,
        )
        for seed in range(number)
    ]
    Batch(sequences, [[2 * index, 2 * index + 1] for index in range(number)]).draw(logits.repeat(number, 1))
    drawn = [TOKENIZER.decode(sequence.token_ids) for sequence in sequences]
    prompted = logits[1].softmax(-1)
    assert drawn.count("<") / number == pytest.approx(prompted[ids("<")[0]].item(), abs=0.03)
    # Words are drawn from the steered policy, in which a is e^4 times as likely as b.
    assert drawn.count("b") / number < 0.03
