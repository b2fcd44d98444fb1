"""Whatever tokens are drawn, answers follow the grammar and end within their budget."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.exceptions import GrammarError, MaxTokensError, SchemaError
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured import grammar as grammars
from langchain_amulet.structured.endings import shortest_ending
from langchain_amulet.structured.grammar import Grammar, GrammarCompiler, GrammarGuide
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import VOCAB_SIZE, tiny_model

EOS = 2
TOKENIZER = byte_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS])
PROMPT = TOKENIZER.encode("What is a moon?")

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TREE = {
    "type": "object",
    "properties": {"name": STRING, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name", "children"],
}
EXPRESSION = {
    "$defs": {
        "e": {
            "anyOf": [
                {"type": "object", "properties": {"add": {"$ref": "#/$defs/e"}, "to": {"$ref": "#/$defs/e"}}, "required": ["add", "to"]},
                INTEGER,
            ]
        }
    },
    "$ref": "#/$defs/e",
}  # fmt: skip
CONTACT = {
    "type": "object",
    "properties": {
        "mail": {"type": "string", "format": "email"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"},
        "tags": {"type": "array", "items": STRING, "minItems": 3},
        "note": STRING,
    },
    "required": ["mail", "code", "tags", "note"],
}
SCHEMAS = [STRING, {"type": "number"}, TREE, EXPRESSION, CONTACT, {"enum": ["grün", 'a "b"', None]}, {}]


def grammar_of(schema) -> Grammar:
    layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return COMPILER.compile("start: %json " + json.dumps({**schema, "x-guidance": layout}))


def text_of(token_ids) -> str:
    return cast("str", TOKENIZER.decode([token_id for token_id in token_ids if token_id != EOS]))


def draw_all(guide: GrammarGuide, budget: int, draw) -> list[int]:
    """Generate an answer of allowed tokens that `draw` chooses."""
    tokens: list[int] = []
    while not guide.is_complete and len(tokens) < budget:
        allowed = guide.allowed(budget - len(tokens)).nonzero().flatten().tolist()
        tokens.append(guide.accept(draw(allowed), budget - len(tokens)))
    return tokens


@given(st.sampled_from(range(len(SCHEMAS))), st.integers(0, 80), st.randoms(use_true_random=False))
def test_any_draws_end_within_any_sufficient_budget(number, spare, random):
    grammar = grammar_of(SCHEMAS[number])
    budget = len(grammar.shortest) + spare
    guide = grammar.start(budget)
    tokens = draw_all(guide, budget, random.choice)
    assert guide.is_complete
    json.loads(text_of(tokens))


@given(st.randoms(use_true_random=False))
def test_draws_are_not_replaced_within_a_large_budget(random):
    tokens: list[int] = []
    guide = grammar_of(CONTACT).start(10_000)
    while not guide.is_complete and len(tokens) < 60:
        drawn = random.choice(guide.allowed(10_000 - len(tokens)).nonzero().flatten().tolist())
        assert guide.accept(drawn, 10_000 - len(tokens)) == drawn
        tokens.append(drawn)


def test_object_may_have_properties_that_are_not_required():
    """Draws that begin a key are not replaced, though the shortest ending has no key."""
    optional = {"type": "object", "properties": {"a": STRING, "b": INTEGER}, "additionalProperties": False}
    drawn = iter(TOKENIZER.encode('{"a": "x", "b": 3}'))
    assert text_of(draw_all(grammar_of(optional).start(60), 60, lambda _: next(drawn))) == '{"a": "x", "b": 3}'


def test_string_leaves_tokens_for_the_values_after_it():
    pair = {"type": "object", "properties": {"a": STRING, "b": STRING}, "required": ["a", "b"]}
    letter = TOKENIZER.convert_tokens_to_ids("x")
    tokens = draw_all(grammar_of(pair).start(120), 120, lambda allowed: letter if letter in allowed else allowed[0])
    first, second = json.loads(text_of(tokens)).values()
    assert len(first) > 30
    assert len(second) > 30


def test_last_string_may_use_the_whole_budget():
    single = {"type": "object", "properties": {"a": STRING}, "required": ["a"]}
    letter = TOKENIZER.convert_tokens_to_ids("x")
    tokens = draw_all(grammar_of(single).start(120), 120, lambda allowed: letter if letter in allowed else allowed[0])
    assert len(tokens) == 120


def test_insufficient_budget_is_refused_with_the_remedy():
    grammar = grammar_of(CONTACT)
    with pytest.raises(MaxTokensError, match=rf"takes {len(grammar.shortest)} tokens.*Raise max_tokens"):
        grammar.start(len(grammar.shortest) - 1)


@pytest.mark.parametrize("text", ['begin: "a"', "start: %json {}\nstart: a", 'start: %json {"type": "elephant"}'])
def test_invalid_grammar_is_refused(text):
    with pytest.raises(SchemaError):
        COMPILER.compile(text)


def test_grammar_without_end_is_refused():
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    with pytest.raises(SchemaError, match="contain itself without end"):
        grammar_of(endless).check_satisfiable()


def test_equal_grammars_are_compiled_once():
    assert grammar_of(TREE) is grammar_of(dict(TREE))


# In the engine


MODEL = tiny_model()


def an_engine(config: EngineConfig | None = None) -> Engine:
    return Engine(TransformersRunner(MODEL), config)


def guided(schema, *, seed: int, is_steered: bool, max_tokens: int = 90, **sampling) -> Request:
    return Request(
        [PROMPT, [*PROMPT, 50, 60]],
        [1.0],
        RealignmentConfig(guidance_scale=3.0, plausibility=0.5, max_kl=1.0, nucleus=0.9),
        SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=seed, stop_token_ids=frozenset([EOS]), **sampling),
        guide=partial(grammar_of(schema).start, is_steered=is_steered),
    )


def mixed_requests() -> list[Request]:
    """Requests with and without a guide, with one and two streams, steered within the structure or not."""
    free = SamplingParams(max_tokens=40, temperature=1.0, seed=1)
    alone = SamplingParams(max_tokens=60, temperature=0.9, top_p=0.9, seed=2)
    return [
        guided(TREE, seed=3, is_steered=True),
        Request([PROMPT, PROMPT[2:]], [1.0], RealignmentConfig(), free),
        guided(CONTACT, seed=4, is_steered=False),
        Request([PROMPT], sampling=alone, guide=grammar_of(EXPRESSION).start),
        guided({"type": "number"}, seed=5, is_steered=True, repetition_penalty=1.5),
        Request([PROMPT], sampling=free),
    ]


def one_by_one() -> list[list[int]]:
    engine = an_engine()
    return [list(engine.submit(request)) for request in mixed_requests()]


def test_guided_answers_in_a_batch_equal_those_one_by_one():
    alone = one_by_one()
    engine = an_engine()
    together = [engine.submit(request) for request in mixed_requests()]
    assert [list(generation) for generation in together] == alone
    for request, tokens in zip(mixed_requests(), alone, strict=True):
        if request.guide is not None:
            json.loads(text_of(tokens))


def test_guided_answers_survive_preemption():
    requests = [guided(CONTACT, seed=seed, is_steered=True, max_tokens=140) for seed in (4, 5, 6)]
    engine = an_engine()
    whole = [list(engine.submit(request)) for request in requests]
    num_bytes = TransformersRunner(MODEL).bytes_per_token * 4 * (len(PROMPT) + 70)  # enough for two of them at first
    engine = an_engine(EngineConfig(cache_bytes=num_bytes, prefix_cache_bytes=0))
    generations = [engine.submit(request) for request in requests]
    assert [list(generation) for generation in generations] == whole
    assert engine.stats.num_preemptions > 0


def test_guided_answer_ends_without_a_stop_token():
    generation = an_engine().submit(guided(TREE, seed=3, is_steered=False))
    tokens = list(generation)
    assert generation.finish_reason == "stop"
    assert generation.token_ids == tokens


def test_guidance_does_not_act_on_structure_unless_it_is_steered():
    """The answer is then that of the preference prompt alone, as at guidance scale 1."""
    engine = an_engine()
    prompted = guided(CONTACT, seed=7, is_steered=False)
    by_itself = Request(prompted.prompts[1:], sampling=prompted.sampling, guide=prompted.guide)
    steered = guided(CONTACT, seed=7, is_steered=True)
    assert list(engine.submit(prompted)) == list(engine.submit(by_itself)) != list(engine.submit(steered))


def test_logprobs_are_normalised_over_the_allowed_tokens():
    request = guided(TREE, seed=3, is_steered=True)
    reported = Request(request.prompts, request.weights, request.realignment, request.sampling, 3, guide=request.guide)
    generation = an_engine().submit(reported)
    list(generation)
    forced = generation.logprobs[0]  # the grammar allows only a brace here
    assert text_of([forced.token_id]) == "{"
    assert forced.logprob == pytest.approx(0.0, abs=1e-6)
    assert [entry.token_id for entry in generation.logprobs] == generation.token_ids


def test_grammar_that_fails_ends_its_own_answer_only(monkeypatch):
    accept, num_calls = GrammarGuide.accept, 0

    def fail_once(self, token_id, num_left):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 5:
            msg = "too complex"
            raise GrammarError(msg)
        return accept(self, token_id, num_left)

    monkeypatch.setattr(GrammarGuide, "accept", fail_once)
    engine = an_engine()
    failing, free = engine.submit(guided(TREE, seed=3, is_steered=True)), engine.submit(mixed_requests()[1])
    with pytest.raises(GrammarError, match="too complex"):
        list(failing)
    assert len(list(free)) == 40
    assert len(list(engine.submit(guided(TREE, seed=3, is_steered=True)))) > 5


def test_other_answers_go_on_while_a_grammar_is_searched(monkeypatch):
    engine, is_searching, may_end = an_engine(), threading.Event(), threading.Event()
    monkeypatch.setattr(grammars, "shortest_ending", lambda *arguments: (
        is_searching.set(), may_end.wait(30), shortest_ending(*arguments))[2])  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(engine.submit(guided({"const": "searched"}, seed=1, is_steered=False))))
        assert is_searching.wait(30)
        assert len(list(engine.submit(mixed_requests()[5]))) == 40
        may_end.set()
        assert json.loads(text_of(waiting.result())) == "searched"
