"""Tools in prompts: descriptions in the template of each family, and calls and results in the history."""

import json
from typing import Any, cast

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_amulet.prompts.conversation import fold_system_into_user, one_call_per_turn
from langchain_amulet.prompts.renderer import PromptRenderer
from langchain_amulet.structured.tool_formats import (
    GENERIC,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_V11,
    OTHER,
    TOOL_PROMPT,
    ToolFormat,
    detect,
)
from tests.fakes.chat_templates import TEMPLATES, byte_tokenizer
from tests.fakes.tool_templates import FAMILIES, HERMES3, QWEN25, tool_tokenizer

FORMATS = {
    "qwen2.5": HERMES,
    "qwen3": HERMES,
    "thinking": HERMES,
    "hermes": HERMES,
    "llama3.1": LLAMA3,
    "mistral": MISTRAL,
    "mistral v11": MISTRAL_V11,
    "qwen3.5": OTHER,
    "gemma4": OTHER,
}
PREFERENCE = "Answer briefly."
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tell the weather.", "parameters": PARAMETERS},
}
INTRODUCTION = TOOL_PROMPT.partition("\n")[0]
LONG_ID = "call_o4Xg8WmvK2bTzQp1"
ARGUMENTS = {"city": "São Paulo", "days": 3}
QUESTION = [SystemMessage("You are a guide."), HumanMessage("Do I need an umbrella?")]
CALL = AIMessage("", tool_calls=[{"name": "get_weather", "args": ARGUMENTS, "id": LONG_ID}])
RESULT = ToolMessage("Rain.", tool_call_id=LONG_ID, name="get_weather")
CONVERSATIONS = {
    "question": QUESTION,
    "result": [*QUESTION, CALL, RESULT],
    "follow-up": [*QUESTION, CALL, RESULT, AIMessage("You do."), HumanMessage("And tomorrow?")],
}
SMOLLM2, GEMMA2 = TEMPLATES["smollm2"], TEMPLATES["gemma2"]
EVERY = [*FAMILIES, pytest.param(SMOLLM2, id="smollm2"), pytest.param(GEMMA2, id="gemma2")]
NATIVE = [(family, conversation) for family in FAMILIES for conversation in CONVERSATIONS]


def render(family: str, messages: list[BaseMessage], *preferences: str, tools=(TOOL,), **more) -> str:
    """Render with the template of a family, or with another template, which does not support tools."""
    tokenizer = tool_tokenizer(family) if family in FAMILIES else byte_tokenizer(family)
    return cast("str", tokenizer.decode(PromptRenderer(tokenizer).render(messages, preferences, tools=tools, **more)))


def turns_of(messages: list[BaseMessage]) -> list[dict]:
    """Return the conversation in the form of transformers, with ids that all templates accept."""
    roles = {"human": "user", "ai": "assistant"}
    turns = []
    for message in messages:
        turn = {"role": roles.get(message.type, message.type), "content": message.content}
        if getattr(message, "tool_calls", None):
            function = {"name": "get_weather", "arguments": ARGUMENTS}
            turn["tool_calls"] = [{"type": "function", "id": "abcdefghi", "function": function}]
        if message.type == "tool":
            turn |= {"tool_call_id": "abcdefghi", "name": "get_weather"}
        turns.append(turn)
    return turns


def without_ids(prompt: str) -> str:
    """Replace the ids of calls, which only Mistral's template writes."""
    ids = {part.split('"')[0] for mark in ('"id": "', '"call_id": "') for part in prompt.split(mark)[1:]}
    for call_id in ids:
        prompt = prompt.replace(call_id, "ID")
    return prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_format_is_detected_from_the_template(family):
    assert PromptRenderer(tool_tokenizer(family)).tool_format == FORMATS[family]


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_without_tools_has_the_generic_format(template):
    assert PromptRenderer(byte_tokenizer(TEMPLATES[template])).tool_format == GENERIC


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools %}{{ raise_exception('No tools, please') }}{% endif %}" + SMOLLM2,
        SMOLLM2 + "{% if tools %}{{ tools[0].nowhere.to_be.found }}{% endif %}",
        SMOLLM2.replace("message['content']", "(message['content'] or message['tool_calls'][0]['x'])"),
        SMOLLM2 + "{{ tools | tojson if tools }}",  # writes tools, but not calls
    ],
)
def test_template_that_fails_on_tools_has_the_generic_format(template):
    assert PromptRenderer(byte_tokenizer(template)).tool_format == GENERIC
    prompt = render(template, CONVERSATIONS["result"])
    assert '"name": "get_weather", "description"' in prompt
    assert "<tool_response>\nRain.\n</tool_response>" in prompt


def test_unknown_format_is_generic_unless_the_tokenizer_can_parse_it():
    template = QWEN25.replace("<tool_call>", "<call>")
    tokenizer = byte_tokenizer(template)
    assert PromptRenderer(tokenizer).tool_format == GENERIC
    tokenizer.response_template = {"fields": {"tool_calls": {"open": "<call>", "content": "json"}}}
    assert PromptRenderer(tokenizer).tool_format == OTHER


@pytest.mark.parametrize(("family", "conversation"), NATIVE)
def test_base_stream_with_tools_is_what_transformers_renders(family, conversation):
    messages = CONVERSATIONS[conversation]
    turns = turns_of(messages)
    if (family, conversation) == ("mistral", "result"):
        turns = fold_system_into_user(turns)  # its template would drop the system message
    expected = tool_tokenizer(family).apply_chat_template(
        turns, tools=[TOOL], tokenize=False, add_generation_prompt=True
    )
    assert without_ids(render(family, messages)) == without_ids(expected)


@pytest.mark.parametrize(("family", "conversation"), NATIVE)
def test_preference_stream_with_tools_differs_only_by_the_preference(family, conversation):
    messages = CONVERSATIONS[conversation]
    base, pref = render(family, messages), render(family, messages, PREFERENCE)
    assert pref.count(PREFERENCE) == 1
    assert pref.replace(f"\n\n{PREFERENCE}", "") == base
    assert f"You are a guide.\n\n{PREFERENCE}" in pref


@pytest.mark.parametrize("family", FAMILIES)
def test_tools_and_calls_are_in_the_prompt_in_the_format_of_the_family(family):
    prompt = render(family, CONVERSATIONS["follow-up"])
    assert "Tell the weather." in prompt
    assert prompt.count("Rain.") == 1
    written = FAMILIES[family].write([("get_weather", ARGUMENTS)])
    # Mistral's template writes an id into the call.
    assert (written.removesuffix("}]") if family == "mistral" else written) in prompt
    assert INTRODUCTION not in prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_in_the_history_are_rendered_without_bound_tools(family):
    prompt = render(family, CONVERSATIONS["follow-up"], tools=())
    assert "São Paulo" in prompt
    assert "Tell the weather." not in prompt


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_generic_tool_prompt_precedes_the_preference(template):
    prompt = render(template, QUESTION, PREFERENCE, instructions="Call one now.")
    described = json.dumps(TOOL["function"])
    order = ["You are a guide.", INTRODUCTION, described, "Call one now.", f"\n\n{PREFERENCE}"]
    assert [prompt.count(text) for text in order] == [1] * len(order)
    assert sorted(order, key=prompt.index) == order
    assert prompt.replace(f"\n\n{PREFERENCE}", "") == render(template, QUESTION, instructions="Call one now.")


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_calls_in_the_history_are_text_if_the_template_does_not_support_tools(template):
    prompt = render(template, CONVERSATIONS["follow-up"], tools=())
    assert '{"name": "get_weather", "arguments": {"city": "São Paulo", "days": 3}}' in prompt
    assert "<tool_response>\nRain.\n</tool_response>" in prompt


@pytest.mark.parametrize("family", EVERY)
def test_failed_call_is_rendered_as_an_error(family):
    failed = ToolMessage("no such city", tool_call_id=LONG_ID, name="get_weather", status="error")
    assert "Error: no such city" in render(family, [*QUESTION, CALL, failed])


@pytest.mark.parametrize("family", ["mistral", "mistral v11", "qwen2.5"])
def test_ids_of_other_providers_are_shortened_and_stay_paired(family):
    calls: list[dict[str, Any]] = [
        {"name": "get_weather", "args": {"city": city}, "id": f"{LONG_ID}-{city}"} for city in ("Rome", "Oslo")
    ]
    results = [ToolMessage(f"Sun in {call['args']['city']}.", tool_call_id=call["id"]) for call in calls]
    prompt = render(family, [*QUESTION, AIMessage("", tool_calls=calls), *results])
    assert LONG_ID not in prompt
    if family == "mistral":
        ids = [part.split('"')[0] for part in prompt.split('"id": "')[1:]]
        answered = [part.split('"')[0] for part in prompt.split('"call_id": "')[1:]]
        assert ids == answered
        assert len({*ids}) == 2


def test_ids_of_nine_letters_and_digits_are_not_changed():
    call = AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "aB3dE6gH9"}])
    prompt = render("mistral", [*QUESTION, call, ToolMessage("Rain.", tool_call_id="aB3dE6gH9")])
    assert prompt.count("aB3dE6gH9") == 2


@pytest.mark.parametrize("family", EVERY)
def test_blocks_of_other_providers_render_as_their_text_and_calls(family):
    blocks = [
        {"type": "reasoning", "reasoning": "The user is in Brazil."},
        {"type": "thinking", "thinking": "Surely.", "signature": "x"},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": LONG_ID, "name": "get_weather", "input": ARGUMENTS},
    ]
    result = ToolMessage([{"type": "text", "text": "Rain."}], tool_call_id=LONG_ID, name="get_weather")
    messages = [*QUESTION, AIMessage(blocks, tool_calls=CALL.tool_calls), result]
    assert render(family, messages) == render(family, CONVERSATIONS["result"])


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", SMOLLM2])
def test_text_before_a_call_is_rendered(family):
    message = AIMessage("Let me look.", tool_calls=CALL.tool_calls)
    assert "Let me look.\n<tool_call>\n" in render(family, [*QUESTION, message, RESULT])


@pytest.mark.parametrize("family", EVERY)
def test_several_calls_of_one_turn_render_in_order(family):
    calls = [{"name": "get_weather", "args": {"city": city}, "id": city} for city in ("Rome", "Oslo")]
    results = [ToolMessage(f"Sun in {city}.", tool_call_id=city, name="get_weather") for city in ("Rome", "Oslo")]
    prompt = render(family, [*QUESTION, AIMessage("", tool_calls=calls), *results])
    order = ["Rome", "Oslo", "Sun in Rome.", "Sun in Oslo."]
    if family == "llama3.1":  # its template accepts one call per turn
        order = ["Rome", "Sun in Rome.", "Oslo", "Sun in Oslo."]
    assert sorted(order, key=prompt.index) == order


def test_tokenizer_with_a_separate_template_for_tools_renders_everything():
    tokenizer = tool_tokenizer("hermes")
    tokenizer.chat_template = {"default": SMOLLM2, "tool_use": HERMES3}
    renderer = PromptRenderer(tokenizer)
    for tools in ([TOOL], []):
        prompt = tokenizer.decode(renderer.render(CONVERSATIONS["follow-up"], [PREFERENCE], tools=tools))
        assert all(text in prompt for text in ("São Paulo", "Rain.", "And tomorrow?", PREFERENCE))
        assert ("Tell the weather." in prompt) == bool(tools)


def test_template_arguments_reach_the_template():
    closed = render("qwen3", QUESTION, tools=(), template_kwargs={"enable_thinking": False})
    assert closed == render("qwen3", QUESTION, tools=()) + "<think>\n\n</think>\n\n"


# Detection from one call


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ('<tool_call>\n{"name": "probe", "arguments": {}}\n</tool_call>', HERMES),
        ('<tool_call>{"name":"probe","arguments":{}}</tool_call>', HERMES),
        ('{"name": "probe", "parameters": {}}', LLAMA3),
        ('[TOOL_CALLS] [{"name": "probe", "arguments": {}, "id": "x"}]', MISTRAL),
        ('[TOOL_CALLS][{"name": "probe", "arguments": {}}]', MISTRAL),
        ("[TOOL_CALLS]probe[ARGS]{}", MISTRAL_V11),
        ('<tool_call>\n{"arguments": {}, "name": "probe"}\n</tool_call>', None),
        ("[probe(x=1)]", None),
        ('{"name": "probed", "parameters": {}}', None),
        ("", None),
    ],
)
def test_format_is_detected_with_any_whitespace(call, expected):
    assert detect(call, "probe") == expected


@pytest.mark.parametrize("family", [HERMES, LLAMA3, MISTRAL, MISTRAL_V11], ids=["hermes", "llama", "mistral", "v11"])
def test_format_is_detected_from_a_call_that_it_has_written(family: ToolFormat):
    assert detect(family.write("probe", ARGUMENTS), "probe") == family


# One call per turn


def called(*ids: str) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"id": call_id} for call_id in ids]}


def result(call_id: str, content: str = "Rain.") -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ([called("a", "b"), result("b"), result("a")], [called("a"), result("a"), called("b"), result("b")]),
        (
            [called("a", "b"), result("a", "1"), result("b", "2"), called("a"), result("a", "3")],
            [called("a"), result("a", "1"), called("b"), result("b", "2"), called("a"), result("a", "3")],
        ),
        (
            [called("a", "b"), result("a"), result("b"), called("a"), result("a")],
            [called("a"), result("a"), called("b"), result("b"), called("a"), result("a")],
        ),
        (
            [called("a", "a"), result("a", "1"), result("a", "2")],
            [called("a"), result("a", "1"), called("a"), result("a", "2")],
        ),
        ([called("a", "b"), result("c"), result("a")], [called("a"), result("a"), called("b"), result("c")]),
        ([called("a"), result("a")], [called("a"), result("a")]),
    ],
)
def test_calls_of_one_turn_are_split_with_the_results_of_that_turn(conversation, expected):
    assert one_call_per_turn(conversation) == expected


def test_name_of_a_call_in_the_history_is_escaped_within_quotes():
    written = HERMES.write('a"b\\', {})
    assert json.loads(written.removeprefix(HERMES.opening).removesuffix(HERMES.closing))["name"] == 'a"b\\'
