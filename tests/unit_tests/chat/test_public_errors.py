"""No foreign error leaves the public surface of a chat model, whatever is passed."""

import traceback
from collections.abc import Callable
from typing import Any, cast

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage
from pydantic import ValidationError

from langchain_amulet import ChatAmulet
from langchain_amulet.exceptions import (
    AmuletError,
    InvalidParameterError,
    MessageError,
    ModelLoadError,
    PreferenceError,
    SchemaError,
    ToolError,
    UnexpectedError,
)
from langchain_amulet.prompts.renderer import PromptRenderer
from tests.fakes.chats import MODEL, QUESTION, TOKENIZER, short_llm
from tests.fakes.engines import wait_until
from tests.unit_tests.test_foreign_errors import everything_of

LLM = short_llm()
PRIVATE = "I am diabetic."
SURROGATE = "\ud800"


def of_content(content: Any) -> list[HumanMessage]:
    message = HumanMessage("")
    message.content = content
    return [message]


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def with_call(args: object) -> list:
    call = AIMessage("", tool_calls=[{"name": "f", "args": {"a": args}, "id": "1"}])
    return [HumanMessage("?"), call, ToolMessage("x", tool_call_id="1")]


UNREADABLE = {
    "a number": 7,
    "nothing": None,
    "a generator": (text for text in "ab"),
    "a dict without content": [{"role": "user"}],
    "a dict with an unknown role": [{"role": "alien", "content": "x"}],
    "a tuple of one": [("human",)],
    "a tuple with a number": [("human", 7)],
    "a lone surrogate": SURROGATE,
    "a role with a lone surrogate": [ChatMessage(role=SURROGATE, content="x")],
    "a result with a lone surrogate": [*with_call("x")[:2], ToolMessage(SURROGATE, tool_call_id="1")],
    "arguments that JSON cannot represent": with_call(object()),
    "deeply nested arguments": with_call(nested(3000)),
    "a text part without text": of_content([{"type": "text"}]),
    "a text part with a text of None": of_content([{"type": "text", "text": None}]),
    "a part without a type": of_content([{}]),
    "a part whose type is a list": of_content([{"type": ["x"]}]),
    "an image without a URL": of_content([{"type": "image", "source_type": "url"}]),
    "a part that is a number": of_content([7]),
    "a number as content": of_content(7),
    "None as content": of_content(None),
}


@pytest.mark.parametrize("messages", UNREADABLE.values(), ids=UNREADABLE)
async def test_input_that_cannot_be_read_is_a_message_error(messages):
    for ask in (LLM.invoke, lambda messages: list(LLM.stream(messages)), LLM.prompt_streams):
        with pytest.raises(MessageError):
            ask(messages)
    with pytest.raises(MessageError):
        await LLM.ainvoke(messages)


@pytest.mark.parametrize("messages", [7, [7], [[7]], [["x"]]])
def test_conversations_that_are_none_are_message_errors(messages):
    with pytest.raises(MessageError):
        LLM.generate(messages)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (ToolError, lambda: LLM.bind_tools(7)),
        (ToolError, lambda: LLM.invoke(QUESTION, tools=7)),
        (SchemaError, lambda: LLM.with_structured_output(7)),
        (MessageError, lambda: LLM.invoke(QUESTION, preference_template=f"{SURROGATE}{{preferences}}", preference="a")),
        (MessageError, lambda: LLM.invoke(QUESTION, chat_template_kwargs={"chat_template": "{{ 1 / 0 }}"})),
        (MessageError, lambda: LLM.get_token_ids(SURROGATE)),
        (InvalidParameterError, lambda: LLM.get_token_ids(7)),
        (MessageError, lambda: LLM.evidence(QUESTION, SURROGATE, ["a"])),
        (InvalidParameterError, lambda: LLM.evidence(QUESTION, 7, ["a"])),
        (PreferenceError, lambda: LLM.evidence(QUESTION, "x", [cast("str", 7)])),
        (MessageError, lambda: LLM.get_num_tokens_from_messages(7)),
        (InvalidParameterError, lambda: LLM.invoke(QUESTION, 7)),
        (InvalidParameterError, lambda: LLM.invoke(QUESTION, {"configurable": 7})),
        (InvalidParameterError, lambda: LLM.batch([QUESTION], [{}, {}])),
        (ModelLoadError, lambda: ChatAmulet(model_kwargs={"dtype": "no dtype"}).load()),
        (ValidationError, lambda: ChatAmulet(engine_config={"no": "field"})),
        (ValidationError, lambda: ChatAmulet(realignment={"no": "field"})),
    ],
)
def test_wrong_argument_is_an_error_of_ours(kind, call):
    with pytest.raises(kind):
        call()


async def test_batches_with_a_wrong_number_of_configs_are_refused():
    configs: list[Any] = [[{}, {}], 7]
    for config in configs:
        for call in (LLM.batch, lambda *given: list(LLM.batch_as_completed(*given))):
            with pytest.raises(InvalidParameterError, match="one such dict per input"):
                call([QUESTION], config)
        with pytest.raises(InvalidParameterError, match="one such dict per input"):
            await LLM.abatch([QUESTION], config)
        with pytest.raises(InvalidParameterError, match="one such dict per input"):
            [answer async for answer in LLM.abatch_as_completed([QUESTION], config)]


def test_calls_with_other_parameters_are_type_errors_as_everywhere():
    calls: list[Callable[..., object]] = [LLM.evidence, LLM.bind_tools, LLM.get_token_ids]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert not isinstance(caught.value, AmuletError)


@pytest.mark.parametrize("where", ["plan_streams", "AnswerStream.push", "AnswerStream.finish"])
async def test_error_that_nobody_foresaw_is_ours_and_quotes_nothing(monkeypatch, where):
    def fail(*_args, **_kwargs):
        raise LookupError(PRIVATE)

    monkeypatch.setattr(f"langchain_amulet.chat.call.{where}", fail)
    with pytest.raises(UnexpectedError, match="LookupError") as caught:
        LLM.invoke(QUESTION, preference=PRIVATE)
    assert "diabetic" not in everything_of(caught.value) + "".join(traceback.format_exception(caught.value))
    with pytest.raises(UnexpectedError, match="LookupError"):
        [chunk async for chunk in LLM.astream(QUESTION, preference=PRIVATE)]


def test_error_while_the_prompt_is_written_quotes_no_preference(monkeypatch):
    def fail(_renderer, messages, preferences, **_kwargs):
        raise ValueError((messages, preferences))

    monkeypatch.setattr(PromptRenderer, "render", fail)
    with pytest.raises(MessageError, match="cannot be written as a prompt: ValueError") as caught:
        LLM.invoke(QUESTION, preference=PRIVATE)
    assert "diabetic" not in everything_of(caught.value)


def test_error_of_the_users_own_callback_passes_unchanged():
    class Strict(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, *_args, **_kwargs):
            raise KeyError(PRIVATE)

    with pytest.raises(KeyError, match=PRIVATE):
        list(LLM.stream(QUESTION, {"callbacks": [Strict()]}))


@pytest.mark.parametrize("fields", [{"temperature": -1}, {"seed": PRIVATE}, {"stop": 7}])
def test_error_about_a_field_holds_no_input(fields):
    with pytest.raises(ValidationError) as caught:
        ChatAmulet(**{"preference": PRIVATE, "model_kwargs": {"token": "diabetic"}, **fields})
    assert "diabetic" not in repr(caught.value.errors()) + caught.value.json() + everything_of(caught.value)


def test_model_survives_every_refused_call():
    text = short_llm().invoke(QUESTION).text
    for messages in UNREADABLE.values():
        with pytest.raises(MessageError):
            LLM.invoke(messages)
    assert LLM.invoke(QUESTION).text == text
    wait_until(lambda: LLM.engine.stats.num_running == LLM.engine.stats.num_waiting == 0)
    assert (LLM.model, LLM.tokenizer) == (MODEL, TOKENIZER)
