"""Calls of all kinds for a fuzzer: messages, tools, schemas, settings and preferences, as hypothesis strategies."""

from typing import Any, NamedTuple

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_amulet import Preference, RealignmentConfig

CONTROL = ["<|im_end|>", "<|im_start|>system\n", "</s>", "[INST]", "<tool_call>", "<end_of_turn>", "<think>"]
WORDS = ["Why?", "the sky", "é日本", "\u200b", "🙂👩‍👩‍👧", "\r\n", "\t", '{"a": 1}', "a" * 40, "٣", "\\", '"', "ﬁ"]
# The last ones have characters that prompts rarely have, so that a penalty of their tokens would show.
TEXTS = [
    "Be brief.",
    "Be cheerful!",
    "   ",
    "Answer in verse. " * 4,
    "Say 日本.",
    "ZQXJKVW #@$%^&*~|{}[]<>0123456789 ÆŒß",
]
MANNERS = ("invoke", "stream", "ainvoke", "astream", "batch", "abatch", "generate")

texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)
"""Texts without control tokens, which therefore tell how a prompt is rendered."""
wild_texts = texts | st.lists(st.sampled_from([*CONTROL, *WORDS]), max_size=4).map("".join)


class Call(NamedTuple):
    """One call, and what to do with its answer."""

    messages: list[BaseMessage]
    settings: dict[str, Any]
    preferences: list[Preference]
    manner: str = "invoke"
    cancel_after: int | None = None
    """After how many chunks to leave a stream."""


def blocks(content: str) -> list[Any]:
    """Return a text as content blocks."""
    return [{"type": "text", "text": content[:3]}, content[3:5], {"type": "text", "text": content[5:]}]


contents = wild_texts | wild_texts.map(blocks)


@st.composite
def turns_with_tools(draw: st.DrawFn) -> list[BaseMessage]:
    """An AI message with calls, and their results, some of which may be missing or in another order."""
    names = draw(st.lists(st.sampled_from(["search", "add"]), min_size=1, max_size=2))
    calls = [
        {"name": name, "args": {"query": draw(wild_texts)}, "id": f"call{number}"} for number, name in enumerate(names)
    ]
    results: list[BaseMessage] = [
        ToolMessage(
            draw(contents),
            tool_call_id=call["id"],
            name=draw(st.none() | st.just(call["name"])),
            status=draw(st.sampled_from(["success", "success", "error"])),
        )
        for call in calls
    ]
    return [AIMessage(draw(contents), tool_calls=calls), *draw(st.permutations(results))]


@st.composite
def conversations(
    draw: st.DrawFn, *, alternates: bool = False, all_texts: st.SearchStrategy[str] = wild_texts
) -> list[BaseMessage]:
    """Conversations, mostly with a question at the end; with `alternates`, all templates accept them."""
    contents = all_texts | all_texts.map(blocks)
    messages: list[BaseMessage] = [SystemMessage(draw(contents))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        messages += [HumanMessage(draw(contents)), AIMessage(draw(contents))]
        if not alternates and draw(st.booleans()):
            messages += draw(turns_with_tools())
    messages.append(HumanMessage(draw(contents)))
    if not alternates and draw(st.integers(0, 7)) == 0:
        odd = [
            ChatMessage(content="narrow", role="developer"),
            SystemMessage("late"),
            AIMessage("prefix"),
            HumanMessage(""),
        ]
        messages = draw(st.permutations([*messages, draw(st.sampled_from(odd))]))
    return messages


realignments = st.builds(
    RealignmentConfig,
    guidance_scale=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.6]),
    plausibility=st.sampled_from([0.0, 0.1, 0.6]),
    max_kl=st.sampled_from([None, None, 0.3]),
    nucleus=st.sampled_from([None, None, 0.8]),
    entropy_floor=st.sampled_from([0.0, 0.5, 1.0]),
    contrast=st.sampled_from(["base", "neutral", "opposite"]),
    repeat_preference=st.booleans(),
)


def sometimes(**strategies: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts in which each key may be left out."""
    return st.fixed_dictionaries({}, optional=strategies)


samplings = sometimes(
    temperature=st.sampled_from([0, 0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.9, 0.05]),
    top_k=st.sampled_from([0, 1, 7, 10_000]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7, 5.0]),
    logprobs=st.booleans(),
)
stops = st.lists(st.sampled_from(["e", "\n", "ab", "END", "é", "\ufffd", "}"]), max_size=3)

PARAMETERS = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["query"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": PARAMETERS}}
    for name in ("search", "add")
]
SCHEMAS: list[dict[str, Any]] = [
    PARAMETERS,
    {"title": "L", "type": "array", "items": {"type": "integer"}, "maxItems": 3},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
    {"enum": ["yes", "no", 3, None]},
    {"type": "string", "pattern": "^[a-f]+-[0-9]{2}$"},
    {"anyOf": [{"type": "number"}, {"type": "string", "maxLength": 5}]},
    {"$defs": {"t": {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"},
]


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the argument that asks for JSON of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


structures = st.one_of(
    st.just({}),
    st.just({}),
    sometimes(tool_choice=st.sampled_from(["auto", "none", "any", "add", True]), parallel_tool_calls=st.booleans()).map(
        lambda choice: {"tools": TOOLS, **choice}
    ),
    st.sampled_from(SCHEMAS).map(lambda schema: {"response_format": response_format(schema)}),
    st.just({"response_format": {"type": "json_object"}}),
)

preference_lists = st.lists(
    st.builds(
        Preference,
        st.sampled_from(TEXTS),
        st.sampled_from([1.0, 1.0, 0.5, -0.5, 2.0, 0.0]),
        opposite=st.sampled_from(["", "Ramble.", "Groan."]),
    ),
    max_size=3,
)


@st.composite
def calls(
    draw: st.DrawFn, *, max_tokens: int = 12, is_plain: bool = False, all_texts: st.SearchStrategy[str] = wild_texts
) -> Call:
    """Any call, or one for free text; draws have a seed, without which no answer can be expected."""
    structure = {} if is_plain else draw(structures)
    is_long = bool(structure)
    settings = {
        "max_tokens": draw(st.integers(1, max_tokens * (3 if is_long else 1))),
        "seed": draw(st.integers(0, 2**63 - 1) | st.integers(0, 3)),
        "realignment": draw(realignments),
        "max_streams": draw(st.sampled_from([4, 4, 2])),
        **draw(samplings),
        **structure,
    }
    if settings.get("logprobs"):
        settings["top_logprobs"] = draw(st.integers(0, 5))
    if draw(st.booleans()):
        settings["stop"] = draw(stops)
    if is_long:
        settings["steer_structured"] = draw(st.booleans())
    return Call(
        draw(conversations(alternates=is_plain, all_texts=all_texts)),
        settings,
        draw(preference_lists),
        draw(st.sampled_from(MANNERS)),
        draw(st.none() | st.none() | st.integers(0, 4)),
    )
