"""Endings of patterns are found with little work; without one the answer goes on; nothing is searched or compiled twice."""

import json
import os
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from langchain_amulet.exceptions import MaxTokensError, SchemaError
from langchain_amulet.structured import grammar as grammars
from langchain_amulet.structured.grammar import Grammar, GrammarCompiler, GrammarGuide
from langchain_amulet.structured.walk import Walk
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.forks import in_child
from tests.fakes.models import VOCAB_SIZE
from tests.fakes.schema_parts import TEXT, obj

EOS = 2
TOKENIZER = byte_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS])

# Everyday patterns whose last characters are fixed, and their shortest matches.
PATTERNS = {
    r"^.+\.py$": "?.py",
    r"^https://.*\.pdf$": "https://.pdf",
    r"^SELECT .+ FROM [a-z]+;$": "SELECT ? FROM ?;",
    r"^[A-Za-z ]+, [A-Z]{2} \d{5}$": "?, ?? ?????",
    r"^[^?]+\?$": "??",
    r"^(REQUIRE|OPTIONAL)$": "REQUIRE",
    r"^s3://[a-z0-9][.a-z0-9-]{1,61}[a-z0-9](/.*)?$": "s3://???",
    r"^ *<< *parameters.([^ ]+) *>> *$": "<<parameters??>>",
}
MOST_STEPS_AT_START = 1000
MOST_STEPS_PER_DRAW = 24
LONG = 1000  # tokens of a budget that is far from short
ENDLESS = obj({"next": {"$ref": "#"}})


def text_of_grammar(schema: Any) -> str:
    layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return "start: %json " + json.dumps({**schema, "x-guidance": layout})


def grammar_of(schema: Any) -> Grammar:
    return COMPILER.compile(text_of_grammar(schema))


def patterned(pattern: str) -> Any:
    return {"type": "string", "pattern": pattern}


@pytest.fixture
def steps(monkeypatch) -> list[None]:
    """Has one item for each mask that is computed."""
    computed: list[None] = []
    allowed = Walk.allowed
    monkeypatch.setattr(Walk, "allowed", lambda self: (computed.append(None), allowed(self))[1])
    return computed


@pytest.mark.parametrize("pattern", PATTERNS)
def test_shortest_text_of_an_everyday_pattern_is_found(pattern):
    shortest = json.loads(TOKENIZER.decode(grammar_of(patterned(pattern)).shortest))
    assert len(shortest) == len(PATTERNS[pattern])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_search_takes_limited_work_and_is_made_once(pattern, steps):
    grammar = Grammar(COMPILER.vocabulary, text_of_grammar(obj({"a": patterned(pattern), "b": TEXT})))
    _ = grammar.shortest
    num_steps = len(steps)
    assert 0 < num_steps <= MOST_STEPS_AT_START
    _ = grammar.shortest
    grammar.start(LONG)
    assert len(steps) == num_steps


def drawn(guide: GrammarGuide, budget: int, seed: int, steps: list[None]) -> tuple[str, int]:
    """Draw at random; return the text, and the most masks that were computed for the ending after a draw."""
    choose, tokens, most = random.Random(seed), list[int](), 0
    while not guide.is_complete and len(tokens) < budget:
        allowed = guide.allowed(budget - len(tokens)).nonzero().flatten().tolist()
        before = len(steps)
        tokens.append(guide.accept(choose.choice(allowed), budget - len(tokens)))
        most = max(most, len(steps) - before)
    return cast("str", TOKENIZER.decode([token for token in tokens if token != EOS])), most


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("spare", [0, 7, 300])
def test_answer_with_an_everyday_pattern_ends_in_time_and_no_draw_takes_long(pattern, spare, steps):
    grammar = grammar_of(obj({"a": patterned(pattern), "b": patterned(pattern)}))
    budget = len(grammar.shortest) + spare
    for seed in range(2):
        text, most = drawn(grammar.start(budget), budget, seed, steps)
        answer = json.loads(text)
        assert all(re.search(pattern, answer[name]) for name in "ab")
        assert most <= MOST_STEPS_PER_DRAW


def test_long_plan_is_kept_while_a_string_grows(steps):
    """After each draw, the search closes the string and goes on with the old plan, not with a mask per token."""
    grammar = grammar_of(
        obj({"a": patterned(r"^.+\.py$"), **{f"b{number}": {"type": "integer"} for number in range(99)}})
    )
    guide = grammar.start(len(grammar.shortest) + 100)
    for token in TOKENIZER.encode('{"a": "main'):
        guide.allowed(LONG)
        del steps[:]
        assert guide.accept(token, LONG) == token
        assert len(steps) <= MOST_STEPS_PER_DRAW


# Where no ending is known


@pytest.fixture
def blind(monkeypatch) -> None:
    """No search finds anything."""
    monkeypatch.setattr(grammars, "shortest_ending", lambda *_: None)
    monkeypatch.setattr(grammars, "ending_after_draw", lambda *_: None)


@pytest.mark.usefixtures("blind")
def test_answer_whose_ending_is_not_known_goes_on_and_follows_the_grammar(steps):
    grammar = Grammar(COMPILER.vocabulary, text_of_grammar({"enum": ["x", "y"]}))
    grammar.check_satisfiable()
    text, _ = drawn(grammar.start(3), 100, 0, steps)
    assert json.loads(text) in {"x", "y"}


def test_schema_without_end_is_refused_without_a_search(steps):
    grammar = grammar_of(ENDLESS)
    with pytest.raises(SchemaError, match="contain itself without end"):
        grammar.check_satisfiable()
    assert not steps


def test_string_goes_on_without_a_plan_while_many_tokens_are_left(monkeypatch):
    guide = grammar_of(TEXT).start(LONG)
    monkeypatch.setattr(grammars, "ending_after_draw", lambda *_: None)
    monkeypatch.setattr(Walk, "would_end", lambda *_: False)
    quote, letter = TOKENIZER.encode('"x')
    assert [guide.accept(token, LONG) for token in (quote, letter)] == [quote, letter]


def test_search_is_repeated_after_growing_pauses_until_it_finds_an_ending(monkeypatch):
    guide, calls = grammar_of(TEXT).start(LONG), list[None]()
    monkeypatch.setattr(grammars, "ending_after_draw", lambda *_: calls.append(None))
    would_end = Walk.would_end
    monkeypatch.setattr(Walk, "would_end", lambda *_: False)
    quote, letter = TOKENIZER.encode('"x')
    guide.accept(quote, LONG)
    for _ in range(100):
        guide.accept(letter, LONG)
    assert 5 <= len(calls) <= 10
    monkeypatch.undo()
    assert would_end is Walk.would_end
    for num_left in range(99, 0, -1):
        if not guide.is_complete:
            guide.accept(letter, num_left)
    assert guide.is_complete


def test_short_budget_is_refused_with_what_was_found():
    grammar = grammar_of(patterned(r"^.+\.py$"))
    with pytest.raises(
        MaxTokensError, match=rf"found takes {len(grammar.shortest)} tokens; the answer may have 3\. Raise"
    ):
        grammar.start(3)


# Compiling


def count_compilations(monkeypatch) -> list[str]:
    compiled: list[str] = []
    make = Grammar.__init__

    def init(self, vocabulary, text):
        compiled.append(text)
        make(self, vocabulary, text)

    monkeypatch.setattr(Grammar, "__init__", init)
    return compiled


def test_refused_grammar_is_compiled_once(monkeypatch):
    compiled = count_compilations(monkeypatch)
    messages = []
    for _ in range(3):
        with pytest.raises(SchemaError) as caught:
            grammar_of({"type": "elephant"})
        messages.append(str(caught.value))
    assert len(compiled) == len({*messages}) == 1


def test_threads_that_compile_equal_grammars_at_once_share_the_result(monkeypatch):
    compiled = count_compilations(monkeypatch)
    start = threading.Barrier(4)

    def compile_it(_):
        start.wait()
        return grammar_of(obj({"shared": TEXT}))

    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(compile_it, range(4))}) == len(compiled) == 1


def test_unexpected_error_of_a_compilation_is_not_remembered(monkeypatch):
    compiler = GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS])
    monkeypatch.setattr(Grammar, "__init__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compiler.compile(text_of_grammar(TEXT))
    monkeypatch.undo()
    assert compiler.compile(text_of_grammar(TEXT)).shortest


def test_least_recently_used_grammar_is_compiled_again(monkeypatch):
    monkeypatch.setattr(grammars, "_CACHE_SIZE", 2)
    first, second = grammar_of(obj({"a": TEXT})), grammar_of(obj({"b": TEXT}))
    assert grammar_of(obj({"a": TEXT})) is first
    grammar_of(obj({"c": TEXT}))
    assert grammar_of(obj({"a": TEXT})) is first
    assert grammar_of(obj({"b": TEXT})) is not second


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_of_a_fork_compiles_what_its_parent_was_compiling(monkeypatch):
    compiler, text = GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS]), text_of_grammar(patterned("forked"))
    begun, may_end = threading.Event(), threading.Event()
    monkeypatch.setattr(grammars, "Grammar", lambda *_: (begun.set(), may_end.wait(30))[0])
    compiling = threading.Thread(target=compiler.compile, args=[text])
    compiling.start()
    begun.wait(30)
    monkeypatch.setattr(grammars, "Grammar", lambda *_: "compiled in the child")
    assert in_child(lambda: _raised(compiler, text) == "compiled in the child")
    may_end.set()
    compiling.join()


def _raised(compiler: GrammarCompiler, text: str) -> str:
    with pytest.raises(SchemaError) as refusal:
        compiler.compile(text)
    return str(refusal.value)
