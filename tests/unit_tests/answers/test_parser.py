"""Answers told apart while they stream: content, reasoning and tool calls of every family, in whatever pieces."""

import json
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_amulet.answers.parser import AnswerParser, AnswerSyntax, opened_reasoning, response_template
from langchain_amulet.answers.tool_call_stream import ToolCallStream
from langchain_amulet.structured.tool_formats import HERMES, LLAMA3, MISTRAL, MISTRAL_V11
from tests.fakes.parsed_answers import NAMES, ParsedAnswer, cut, parse, syntax_of
from tests.fakes.tool_templates import FAMILIES

SYNTAXES = {family: syntax_of(family) for family in FAMILIES if family not in {"hermes", "thinking"}}  # as Qwen 2.5, 3
JSON_FAMILIES = [family for family in SYNTAXES if FAMILIES[family].responses is None]
THINKERS = ["qwen3", "qwen3.5"]
NESTED = {"text": 'a "b" {c} ]}, \\ é漢👩', "inner": {"x": [1, {"y": None}], "s": "}"}, "number": 3, "items": ["; {"]}
SIMPLE = {"text": "a {b} [c], é漢👩", "inner": {"x": [1, {"y": None}]}, "number": 3, "items": ["d"]}  # no quotes

# What answers are made of, and what may mislead who reads them.
FRAGMENTS = [
    "{", "}", "[", "]", '"', "\\", " ", "\n", "hello", "é漢👩", "null", "; ", ", ", "```json\n", "```", "<|python_tag|>",
    "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]abc", "search",
    '{"name": "search", "arguments": {', '{"name": "search", "parameters": {"a": 1}}', '{"text": "a"}',
    '{"arguments": {"a": 1}, "name": "search"}', "<function=search>\n", "<parameter=text>\n", "\n</parameter>\n",
    "</function>\n", "<|tool_call>call:search{", "<tool_call|>", '<|"|>', "text:", "<|channel>thought\n", "<channel|>",
    "<|im_end|>", "<turn|>",
]  # fmt: skip

borders = st.lists(st.integers(1, 150), max_size=10)
words = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    [fragment for fragment in FRAGMENTS if fragment != "</tool_call>"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
calls_of_any_arguments = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(words, values, max_size=3)), min_size=1, max_size=3
)


def write(family: str, *calls) -> str:
    return FAMILIES[family].write(calls)


def arguments_of(family: str) -> dict:
    return SIMPLE if FAMILIES[family].responses else NESTED


@pytest.mark.parametrize("family", SYNTAXES)
@settings(max_examples=15)
@given(fragments=st.lists(st.sampled_from(FRAGMENTS) | st.none(), max_size=10), places=borders)
def test_any_pieces_of_any_text_are_read_as_the_whole(family, fragments, places):
    call = write(family, ("search", {"text": "a"}))
    text = "".join(call if fragment is None else fragment for fragment in fragments)
    whole = parse([text], SYNTAXES[family])
    assert parse(cut(text, places), SYNTAXES[family]) == whole
    assert parse(list(text), SYNTAXES[family]) == whole


@pytest.mark.parametrize("family", JSON_FAMILIES)
@settings(max_examples=15)
@given(calls=calls_of_any_arguments, places=borders)
def test_calls_of_any_arguments_come_back_whatever_their_pieces(family, calls, places):
    assert parse(cut(write(family, *calls), places), SYNTAXES[family]) == ParsedAnswer("", "", calls, [])


@pytest.mark.parametrize("family", SYNTAXES)
def test_calls_behind_words_come_back_and_the_words_stay_content(family):
    calls = [("search", arguments_of(family)), ("get_weather", {})]
    words = "" if family == "llama3.1" else "Let me look, if {this} is\nwell."
    message = parse(words + write(family, *calls), SYNTAXES[family])
    assert message == ParsedAnswer(words, "", calls, [])


@pytest.mark.parametrize("family", SYNTAXES)
def test_a_call_that_is_cut_short_anywhere_never_becomes_another_call(family):
    calls = [("search", arguments_of(family)), ("get_weather", {"text": "b"})]
    text = write(family, *calls)
    for length in range(len(text)):
        message = parse([text[:length]], SYNTAXES[family])
        assert message.calls in ([], calls[:1], calls), text[:length]


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_a_call_that_is_cut_short_within_its_arguments_comes_out_as_an_invalid_one(family):
    text = write(family, ("search", NESTED))
    for length in range(text.index('"text"'), text.index(json.dumps(NESTED["items"]))):
        message = parse([text[:length]], SYNTAXES[family])
        assert (message.calls, len(message.invalid)) == ([], 1), text[:length]
        assert message.invalid[0][0] == "search"


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_name_and_arguments_stream_before_the_call_is_whole(family):
    text = write(family, ("search", {"text": "a long text"}))
    message = parse(text[: text.index("long")], SYNTAXES[family])
    assert message.invalid[0][0] == "search"
    assert '{"text": "a ' in message.invalid[0][1]


WRAPPED = {
    "other key order": '<tool_call>\n{"arguments": {"text": "a"}, "name": "search"}\n</tool_call>',
    "parameters": '<tool_call>\n{"name": "search", "parameters": {"text": "a"}}\n</tool_call>',
    "as OpenAI": '<tool_call>{"type": "function", "function": {"name": "search", "arguments": {"text": "a"}}}</tool_call>',
    "in one line": '<tool_call>{"name":"search","arguments":{"text":"a"}}</tool_call>',
    "double-encoded": '<tool_call>\n{"name": "search", "arguments": "{\\"text\\": \\"a\\"}"}\n</tool_call>',
    "fenced": '<tool_call>\n```json\n{"name": "search", "arguments": {"text": "a"}}\n```\n</tool_call>',
    "in a list": '<tool_call>\n[{"name": "search", "arguments": {"text": "a"}}]\n</tool_call>',
    "not closed": '<tool_call>\n{"name": "search", "arguments": {"text": "a"}}',
}
BARE = {
    "bare": '{"name": "search", "parameters": {"text": "a"}}',
    "arguments": '{"name": "search", "arguments": {"text": "a"}}',
    "python tag": '<|python_tag|>{"name": "search", "parameters": {"text": "a"}}',
    "fence": '```json\n{"name": "search", "parameters": {"text": "a"}}\n```',
    "fence without language": '```\n{"name": "search", "parameters": {"text": "a"}}\n```',
    "blanks": '\n\n  {"name" : "search",\n "parameters": {"text": "a"}}\n',
}


@pytest.mark.parametrize("spelling", WRAPPED)
def test_calls_in_other_spellings_are_read(spelling):
    text = WRAPPED[spelling]
    assert parse([text], SYNTAXES["qwen2.5"]) == ParsedAnswer("", "", [("search", {"text": "a"})], [])
    assert parse(text, SYNTAXES["qwen2.5"]) == parse([text], SYNTAXES["qwen2.5"])


@pytest.mark.parametrize("family", JSON_FAMILIES)
@pytest.mark.parametrize("spelling", BARE)
def test_calls_without_their_mark_are_read_at_the_beginning_of_an_answer(family, spelling):
    text = BARE[spelling]
    assert parse([text], SYNTAXES[family]) == ParsedAnswer("", "", [("search", {"text": "a"})], [])
    assert parse(text, SYNTAXES[family]) == parse([text], SYNTAXES[family])


@pytest.mark.parametrize("family", JSON_FAMILIES)
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Alice", "arguments": {"a": 1}}',
        '{"name": "search"}',
        '{"title": "search", "parameters": {}}',
        '```json\n{"a": 1}\n```',
        'Like {"name": "search", "parameters": {"text": "a"}}, say.',
        "[1, 2]",
        "A < b, and <tool",
    ],
)
def test_json_that_calls_no_bound_tool_stays_content(family, text):
    assert parse([text], SYNTAXES[family]) == parse(text, SYNTAXES[family]) == ParsedAnswer(text, "", [], [])


@pytest.mark.parametrize(
    "body", ["I would search.", '{"name": 3, "arguments": {}}', '{"name": "search", "arguments": {"text": a}}', "{}"]
)
def test_marked_calls_that_are_none_come_out_as_invalid_ones(body):
    message = parse(f"Well.<tool_call>\n{body}\n</tool_call>", SYNTAXES["qwen2.5"])
    assert (message.content, message.calls, len(message.invalid)) == ("Well.", [], 1)


@pytest.mark.parametrize("family", ["mistral", "mistral v11"])
def test_ids_that_mistral_models_write_are_no_arguments(family):
    text = {
        "mistral": '[TOOL_CALLS] [{"name": "search", "arguments": {"text": "a"}, "id": "abcdefghi"}]',
        "mistral v11": '[TOOL_CALLS]search[CALL_ID]abcdefghi[ARGS]{"text": "a"}',
    }[family]
    assert parse(text, SYNTAXES[family]) == ParsedAnswer("", "", [("search", {"text": "a"})], [])


# Reasoning


@pytest.mark.parametrize("family", THINKERS)
def test_reasoning_is_told_from_words_and_calls(family):
    call = write(family, ("search", {"text": "a"}))
    text = f"<think>\nIs it {{a}}?\n\nYes.\n</think>\n\nI see.\n{call}"
    message = parse(text, SYNTAXES[family])
    assert message == parse([text], SYNTAXES[family])
    assert (message.content, message.reasoning.strip()) == ("I see.", "Is it {a}?\n\nYes.")
    assert message.calls == [("search", {"text": "a"})]


@pytest.mark.parametrize("family", THINKERS)
def test_reasoning_that_the_prompt_has_begun_needs_no_opening_tag(family):
    begun = syntax_of(family, "<think>\n" if FAMILIES[family].responses else "<think>")
    message = parse("Is it?\n</think>\n\nYes.", begun)
    assert (message.content, message.reasoning.strip()) == ("Yes.", "Is it?")
    unfinished = parse("Is it", begun)
    assert (unfinished.content, unfinished.reasoning) == ("", "Is it")


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_calls_that_are_thought_about_are_not_made(family):
    text = f"<think>\n{write(family, ('search', {'text': 'a'}))}\n</think>\nNo."
    message = parse(text, AnswerSyntax(response_template(FORMATS[family], NAMES)))
    assert (message.content, message.calls) == ("No.", [])


FORMATS = {
    **dict.fromkeys(JSON_FAMILIES, HERMES),
    "llama3.1": LLAMA3,
    "mistral": MISTRAL,
    "mistral v11": MISTRAL_V11,
}


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("What does <think> mean?<|im_end|>\n<|im_start|>assistant\n", ""),
    ],
)
def test_only_a_prompt_that_ends_in_an_open_tag_has_begun_to_think(prompt, written):
    assert opened_reasoning(prompt) == written


# Tokenizers that say themselves how answers are read


def test_arguments_in_xml_have_the_types_of_the_tools_schema():
    body = "<parameter=number>\n7\n</parameter>\n<parameter=text>\n7\n</parameter>\n"
    text = f"<tool_call>\n<function=search>\n{body}</function>\n</tool_call>"
    assert parse(text, SYNTAXES["qwen3.5"]).calls == [("search", {"number": 7, "text": "7"})]


def test_gemmas_reasoning_and_calls_are_read():
    text = '<|channel>thought\nHm.<channel|><|tool_call>call:search{text:<|"|>a "b"<|"|>,number:3}<tool_call|>'
    expected = ParsedAnswer("", "Hm.", [("search", {"text": 'a "b"', "number": 3})], [])
    assert parse([text], SYNTAXES["gemma4"]) == parse(text, SYNTAXES["gemma4"]) == expected


def test_a_call_that_the_template_cannot_read_costs_nothing_around_it():
    good = write("gemma4", ("search", {"text": "a"}))
    text = f"Well.<|tool_call>call:search{{text:a b}}<tool_call|>{good}Done."
    message = parse([text], SYNTAXES["gemma4"])
    assert message == parse(text, SYNTAXES["gemma4"])
    assert (message.content, message.calls) == ("Well.Done.", [("search", {"text": "a"})])
    [(_, written)] = message.invalid
    assert "{text:a b}" in written


def test_call_whose_function_is_a_string_is_invalid():
    fields = {"tool_calls": {"open": "<call>", "close": "</call>", "repeats": True, "content": "json"}}
    template = {"start_anchor_pattern": r"\A", "fields": fields}
    message = parse('<call>{"function": "search", "parameters": {}}</call>', AnswerSyntax(template))
    assert (message.calls, len(message.invalid)) == ([], 1)


def test_calls_that_only_the_end_of_the_answer_closes_are_whole_there():
    fields = {**FAMILIES["gemma4"].responses["fields"]}
    fields["tool_calls"] = {key: value for key, value in fields["tool_calls"].items() if key != "close"}
    template = {**FAMILIES["gemma4"].responses, "fields": fields}
    message = parse("<|tool_call>call:search{number:3}", AnswerSyntax(template, "", shown=None))
    assert message == ParsedAnswer("", "", [("search", {"number": 3})], [])


# Calls without arguments, and calls of tools that are not bound


@pytest.mark.parametrize("family", JSON_FAMILIES)
@pytest.mark.parametrize("key", ["arguments", "parameters"])
def test_null_arguments_are_no_arguments_in_every_family(family, key):
    text = write(family, ("search", {})).replace('"arguments": {}', f'"{key}": null')
    text = text.replace('"parameters": {}', f'"{key}": null').replace("[ARGS]{}", "[ARGS]null")
    assert "null" in text
    assert (
        parse(text, SYNTAXES[family]) == parse([text], SYNTAXES[family]) == ParsedAnswer("", "", [("search", {})], [])
    )


@pytest.mark.parametrize("arguments", ["null", "{}"])
def test_null_arguments_are_no_arguments_where_the_tokenizer_parses_calls(arguments):
    fields = {"tool_calls": {"open": "<call>", "close": "</call>", "repeats": True, "content": "json"}}
    syntax = AnswerSyntax({"start_anchor_pattern": r"\A", "fields": fields}, tools=SYNTAXES["qwen2.5"].tools)
    text = f'<call>{{"name": "search", "arguments": {arguments}}}</call>'
    assert parse(text, syntax) == ParsedAnswer("", "", [("search", {})], [])


@pytest.mark.parametrize("arguments", ["[]", "0", "false", '""', "[1]"])
def test_arguments_that_are_no_object_are_invalid(arguments):
    text = f'<tool_call>\n{{"name": "search", "arguments": {arguments}}}\n</tool_call>'
    message = parse([text], SYNTAXES["qwen2.5"])
    assert (message.calls, len(message.invalid)) == ([], 1)


UNBOUND = {
    "qwen2.5": '<tool_call>\n{"name": "temperature", "arguments": {"a": 1}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "temperature", "arguments": {"a": 1}}]',
    "gemma4": "<|tool_call>call:temperature{a:1}<tool_call|>",
    "qwen3.5": "<tool_call>\n<function=temperature>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
}


@pytest.mark.parametrize("family", UNBOUND)
def test_call_of_a_tool_that_is_not_bound_is_an_invalid_call(family):
    for pieces in (UNBOUND[family], [UNBOUND[family]]):
        message = parse(pieces, SYNTAXES[family])
        assert message.calls == []
        [(name, arguments)] = message.invalid
        assert name == "temperature"
        assert '"a": ' in arguments


def test_calls_of_bound_tools_beside_one_that_is_not_bound_stay_valid():
    good = write("qwen2.5", ("search", {"text": "a"}))
    message = parse(f"{good}\n{UNBOUND['qwen2.5']}\n{good}", SYNTAXES["qwen2.5"])
    assert message.calls == [("search", {"text": "a"})] * 2
    assert [name for name, _ in message.invalid] == ["temperature"]


def test_error_of_a_call_of_a_tool_that_is_not_bound_names_the_bound_ones():
    parser = AnswerParser(SYNTAXES["qwen2.5"])
    parser.push(UNBOUND["qwen2.5"])
    parser.finish()
    [error] = parser.errors.values()
    assert "'temperature'" in error
    assert all(name in error for name in NAMES)


# Work


@pytest.mark.parametrize("family", ["qwen2.5", "llama3.1", "mistral v11"])
@pytest.mark.parametrize("blank", [" ", "\n", "{ ", "<tool_call>{ ", "[TOOL_CALLS] "])
def test_opening_of_calls_holds_back_a_bounded_number_of_blanks(family, blank):
    parser = AnswerParser(SYNTAXES[family])
    parser.push(blank)
    for _ in range(300):
        parser.push(" ")
    assert len(parser._parser._buffer) - parser._parser._pos <= 100


@pytest.mark.parametrize("text", ['{"a": ' + "{" * 50, '{"name": "{{{{{{", "x": ' + "{" * 50, "{}" * 50])
def test_start_of_a_call_is_searched_once_per_object(text, monkeypatch):
    tried: list[str] = []
    pattern = Mock(fullmatch=tried.append)
    monkeypatch.setattr("langchain_amulet.answers.tool_call_stream._CALL_START", pattern)
    [*ToolCallStream(0, NAMES).push(text)]
    assert len(tried) <= 1


def test_name_before_an_object_is_searched_in_a_bounded_part_of_the_text(monkeypatch):
    searched: list[str] = []
    pattern = Mock(search=searched.append)
    monkeypatch.setattr("langchain_amulet.answers.tool_call_stream._BARE_NAME", pattern)
    [*ToolCallStream(0, NAMES).push("[CALL_ID]xa" * 1_000 + "{")]
    assert 0 < len(searched[0]) <= 512
