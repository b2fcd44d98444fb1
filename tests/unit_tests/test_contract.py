"""What LangChain promises of any chat model: log-probabilities, reasoning, counting, identity, timeouts, warnings."""

import json
import math
import warnings
from typing import cast

import pytest
import torch
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.rate_limiters import BaseRateLimiter
from pydantic import ValidationError

from langchain_amulet import ChatAmulet, RealignmentConfig, realign
from langchain_amulet.exceptions import AmuletError, GenerationTimeoutError, InvalidParameterError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.engines import wait_until
from tests.fakes.models import tiny_model
from tests.fakes.roomy import roomy_chat, roomy_model, saying, tokenizer_of, without_ids

QUESTION = "Why?"
CONVERSATION = [SystemMessage("Be kind."), HumanMessage(QUESTION)]
TOKENIZER = tokenizer_of("smollm2")


def look_up(word: str) -> str:
    """Look a word up."""


@pytest.fixture
def llm() -> ChatAmulet:
    return roomy_chat(max_tokens=12)


def joined(chunks) -> AIMessage:
    return sum(chunks[1:], start=chunks[0])


# Log-probabilities


def logprobs_of(message: AIMessage) -> list[dict]:
    return message.response_metadata["logprobs"]["content"]


@pytest.mark.parametrize("preference", [None, "Be brief."])
def test_streamed_logprobs_join_to_those_of_invoke(llm, preference):
    asked = {"logprobs": True, "top_logprobs": 2, "preference": preference}
    chunks = list(llm.stream(QUESTION, **asked))
    streamed, invoked = (logprobs_of(message) for message in (joined(chunks), llm.invoke(QUESTION, **asked)))
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in invoked]
    for one, other in zip(streamed, invoked, strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"])
        assert [each["token"] for each in one["top_logprobs"]] == [each["token"] for each in other["top_logprobs"]]
    assert len([chunk for chunk in chunks if "logprobs" in chunk.response_metadata]) > 1


def test_each_token_has_a_logprob_and_its_alternatives(llm):
    message = llm.invoke(QUESTION, logprobs=True, top_logprobs=3)
    entries = logprobs_of(message)
    assert len(entries) == message.usage_metadata["output_tokens"] == 12
    for entry in entries:
        assert 1 <= len(entry["top_logprobs"]) <= 3
        best = max(each["logprob"] for each in entry["top_logprobs"])
        assert entry["logprob"] == pytest.approx(best), "greedy takes the likeliest"
    json.dumps(entries, allow_nan=False)


def test_bytes_of_all_tokens_join_to_the_text():
    tokens = TOKENIZER.encode("a漢!")
    model = saying([*tokens, TOKENIZER.eos_token_id], after=TOKENIZER.encode("\n")[0])
    message = ChatAmulet(model=model, tokenizer=TOKENIZER).invoke(QUESTION, logprobs=True)
    assert message.text == "a漢!"
    assert bytes(byte for entry in logprobs_of(message) for byte in entry["bytes"]).decode() == "a漢!"


def test_answer_without_logprobs_tells_none(llm):
    assert "logprobs" not in llm.invoke(QUESTION).response_metadata
    assert "logprobs" not in roomy_chat(max_tokens=4, logprobs=True).invoke(QUESTION, logprobs=False).response_metadata
    assert len(logprobs_of(roomy_chat(max_tokens=4, logprobs=True).invoke(QUESTION))) == 4


def test_stop_token_has_no_logprob():
    script = TOKENIZER.encode("Yes")
    model = saying([*script, TOKENIZER.eos_token_id], after=TOKENIZER.encode("\n")[0])
    message = ChatAmulet(model=model, tokenizer=TOKENIZER).invoke(QUESTION, logprobs=True)
    assert message.text == "Yes"
    assert [entry["token"] for entry in logprobs_of(message)] == ["Y", "e", "s"]


def test_logprobs_of_a_plain_answer_are_the_models_own(llm):
    message = llm.invoke(QUESTION, logprobs=True, preference=None, temperature=1.0, seed=4)
    request = llm.engine.submit(requests_of(llm, preference=None, temperature=1.0, seed=4))
    prompt, answer = llm.prompt_streams(QUESTION, [])[0], list(request)
    with torch.no_grad():
        logits = roomy_model()(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(answer)), answer].tolist()
    assert [entry["logprob"] for entry in logprobs_of(message)] == pytest.approx(expected, abs=1e-4)


def test_logprobs_of_a_personal_answer_are_realigned(llm):
    asked = {"logprobs": True, "temperature": 1.0, "seed": 4}
    message = llm.invoke(QUESTION, **asked)
    answer = list(llm.engine.submit(requests_of(llm, temperature=1.0, seed=4)))
    streams = llm.prompt_streams(QUESTION)
    with torch.no_grad():
        base, pref = (
            roomy_model()(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] for prompt in streams
        )
    log_probs = realign(base, pref, 3.0, plausibility=0.1)
    expected = log_probs[range(len(answer)), answer].tolist()
    assert [entry["logprob"] for entry in logprobs_of(message)] == pytest.approx(expected, abs=1e-4)


def requests_of(llm: ChatAmulet, **call):
    """The request that a call makes."""
    return llm._prepare([HumanMessage(QUESTION)], None, call).request


def test_logprobs_end_with_the_answer_at_a_stop_string(llm):
    whole = llm.invoke(QUESTION, logprobs=True)
    stop = whole.text[4:6]
    stopped = llm.invoke(QUESTION, logprobs=True, stop=[stop])
    entries = logprobs_of(stopped)
    tokens = [entry["token"] for entry in entries]
    assert tokens == [entry["token"] for entry in logprobs_of(whole)][: len(entries)]
    assert len(entries) == stopped.usage_metadata["output_tokens"] < 12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"logprobs": 3}, "True or False"),
        ({"logprobs": False, "top_logprobs": 2}, "needs logprobs=True"),
        ({"top_logprobs": -1}, "logprobs"),
    ],
)
def test_wrong_logprobs_are_refused(llm, wrong, words):
    with pytest.raises(InvalidParameterError, match=words):
        llm.invoke(QUESTION, **wrong)


# Reasoning


@pytest.fixture(scope="module", params=["qwen3", "thinking"])
def thinker(request) -> ChatAmulet:
    """Thinks "Hm." and says "Yes", where it opens its thoughts itself and where the prompt has."""
    tokenizer = tokenizer_of(request.param)
    opened = ["<think>"] if request.param == "qwen3" else []
    tokens = [*opened, "H", "m", ".", "</think>", "Y", "e", "s", "</s>"]
    model = saying(tokenizer.convert_tokens_to_ids(tokens), after=tokenizer.encode("\n")[0])
    return ChatAmulet(model=model, tokenizer=tokenizer, max_tokens=30)


async def test_reasoning_is_told_beside_the_answer(thinker):
    message = thinker.invoke(QUESTION)
    assert (message.content, message.additional_kwargs) == ("Yes", {"reasoning_content": "Hm."})
    expected = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Yes"}]
    assert message.content_blocks == expected
    assert without_ids(joined(list(thinker.stream(QUESTION)))) == without_ids(message)
    assert without_ids(joined([chunk async for chunk in thinker.astream(QUESTION)])) == without_ids(message)


def test_reasoning_streams_before_the_answer(thinker):
    kinds = ["text" if chunk.text else "reasoning" for chunk in thinker.stream(QUESTION) if chunk.content_blocks]
    assert kinds == sorted(kinds)
    assert kinds.count("reasoning") > 1


def test_reasoning_is_a_block_of_the_newer_output(thinker):
    newer = thinker.model_copy(update={"output_version": "v1"})
    for message in (newer.invoke(QUESTION), joined(list(newer.stream(QUESTION)))):
        content = cast("list[dict[str, str]]", message.content)
        blocks = [(block["type"], block.get("reasoning") or block.get("text")) for block in content]
        assert blocks == [("reasoning", "Hm."), ("text", "Yes")]


def test_thinking_can_be_turned_off_by_the_templates_own_argument():
    quiet = roomy_chat("qwen3", max_tokens=4, preference=None)
    length = quiet.invoke(QUESTION).usage_metadata["input_tokens"]
    told_off = quiet.invoke(QUESTION, chat_template_kwargs={"enable_thinking": False})
    assert told_off.usage_metadata["input_tokens"] == length + len("..") + len("\n\n\n\n")
    by_field = roomy_chat("qwen3", max_tokens=4, preference=None, chat_template_kwargs={"enable_thinking": False})
    assert without_ids(by_field.invoke(QUESTION)) == without_ids(told_off)


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_reasoning_is_an_event_of_its_own(thinker):
    events = thinker.stream_events(QUESTION, version="v3")
    assert (str(events.reasoning), str(events.text)) == ("Hm.", "Yes")


# Counting


@pytest.mark.parametrize("family", ["smollm2", "qwen2.5"])
def test_counted_tokens_are_those_that_usage_tells(family):
    llm = roomy_chat(family, max_tokens=2)
    plain = llm.invoke(CONVERSATION).usage_metadata["input_tokens"]
    assert llm.get_num_tokens_from_messages(CONVERSATION) == plain
    with_tools = llm.bind_tools([look_up]).invoke(CONVERSATION).usage_metadata["input_tokens"]
    assert llm.get_num_tokens_from_messages(CONVERSATION, tools=[look_up]) == with_tools > plain


def test_token_ids_are_the_models_own(llm):
    assert llm.get_token_ids("é!") == TOKENIZER.encode("é!", add_special_tokens=False)
    assert llm.get_num_tokens("é!") == 3
    assert roomy_chat(custom_get_token_ids=lambda text: [len(text)]).get_token_ids("abc") == [3]


async def test_usage_stands_on_exactly_one_chunk(llm):
    chunks = list(llm.stream(QUESTION))
    told_of = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert told_of == [llm.invoke(QUESTION).usage_metadata]
    assert chunks[-1].chunk_position == "last"
    assert [chunk.usage_metadata async for chunk in llm.astream(QUESTION) if chunk.usage_metadata] == told_of


# Timeouts, limits, context


def test_answer_that_takes_too_long_is_an_error_and_frees_its_rows():
    llm = roomy_chat(max_tokens=3000)
    with pytest.raises(GenerationTimeoutError, match="Raise") as raised:
        llm.invoke(QUESTION, timeout=0.2)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, AmuletError)
    wait_until(lambda: llm.engine.stats.num_rows == 0)
    assert llm.invoke(QUESTION, timeout=60, max_tokens=3).usage_metadata["output_tokens"] == 3


async def test_timeout_of_the_field_holds_for_streams_too():
    llm = roomy_chat(max_tokens=3000, timeout=0.2)
    with pytest.raises(TimeoutError):
        list(llm.stream(QUESTION))
    with pytest.raises(TimeoutError):
        await llm.ainvoke(QUESTION)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, "1 s", True])
def test_what_is_no_time_is_refused(llm, timeout):
    with pytest.raises(InvalidParameterError, match="number of seconds above 0"):
        llm.invoke(QUESTION, timeout=timeout)
    with pytest.raises(ValidationError):
        ChatAmulet(timeout=timeout if timeout is not True else -1)


class Turnstile(BaseRateLimiter):
    """Counts who is let through."""

    def __init__(self) -> None:
        self.count = 0

    def acquire(self, *, blocking: bool = True) -> bool:  # noqa: ARG002 - LangChain's signature
        self.count += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire(blocking=blocking)


async def test_rate_limiter_is_asked_once_per_answer():
    turnstile = Turnstile()
    llm = roomy_chat(max_tokens=2, rate_limiter=turnstile)
    llm.invoke(QUESTION)
    list(llm.stream(QUESTION))
    await llm.ainvoke(QUESTION)
    assert [chunk async for chunk in llm.astream(QUESTION)]
    llm.batch([QUESTION] * 2)
    assert turnstile.count == 6


async def test_prompt_beyond_the_context_is_the_error_that_langchain_knows():
    llm = ChatAmulet(model=tiny_model(), tokenizer=byte_tokenizer())
    with pytest.raises(ContextOverflowError, match="Shorten the conversation"):
        llm.invoke("x" * 300)
    with pytest.raises(ContextOverflowError):
        await llm.ainvoke("x" * 300)


# Arguments


@pytest.mark.parametrize("name", ["max_token", "tool_choices", "top_logprob", "guidance_scale"])
def test_unknown_call_argument_warns(llm, name):
    with pytest.warns(UserWarning, match=f"A call of ChatAmulet has no argument '{name}', so it is ignored"):
        llm.invoke(QUESTION, **{name: 3})


def test_arguments_of_remote_models_are_taken_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatAmulet(model="no/such", api_key="x", base_url="y", max_retries=2)


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_events_of_the_third_version_tell_what_invoke_does(llm):
    text = llm.invoke(QUESTION).text
    assert str(llm.stream_events(QUESTION, version="v3").text) == text
    assert await (await llm.astream_events(QUESTION, version="v3")).text == text
    called = llm.bind_tools([look_up], tool_choice="any").invoke(QUESTION, max_tokens=90)
    output = llm.stream_events(
        QUESTION, version="v3", **llm.bind_tools([look_up], tool_choice="any").kwargs, max_tokens=90
    ).output
    assert [call["args"] for call in output.tool_calls] == [call["args"] for call in called.tool_calls]


# Identity


CHANGES = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "repetition_penalty": 1.2,
    "max_tokens": 7,
    "seed": 3,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 2,
    "trace": True,
    "steer_structured": True,
    "max_streams": 2,
    "realignment": RealignmentConfig(guidance_scale=1.5),
    "chat_template_kwargs": {"enable_thinking": False},
    "sanitize_control_tokens": False,
    "model_kwargs": {"revision": "x"},
    "preference": "Be loud.",
    "preference_template": "{preferences} Heed it.",
    "ignore_unsupported_keywords": True,
    "quantization": "int8",
    "model": "some/model",
    "tokenizer": "some/tokenizer",
}
INSIGNIFICANT = {"memory", "engine_config", "timeout", "streaming", "on_store_error", "prefix_sharing", "pack_weights"}
"""Where answers come from and how soon, and nothing about what they say."""


def test_each_field_is_known_to_change_answers_or_not_to():
    own = ChatAmulet.model_fields.keys() - BaseChatModel.model_fields.keys()
    assert own == CHANGES.keys() | INSIGNIFICANT


@pytest.mark.parametrize("field", CHANGES)
def test_each_field_that_answers_depend_on_is_part_of_the_identity(field):
    one = ChatAmulet(model="a/b")
    other = ChatAmulet(**{"model": "a/b", field: CHANGES[field]})
    assert one._identifying_params == ChatAmulet(model="a/b")._identifying_params
    assert one._identifying_params != other._identifying_params
    assert one._get_llm_string(stop=["x"]) != other._get_llm_string(stop=["x"])


@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed", "stop", "realignment"])
def test_changing_a_field_misses_the_answers_of_before(llm, cache, field):
    llm.cache = cache
    llm.invoke(QUESTION)
    setattr(llm, field, CHANGES[field])
    llm.invoke(QUESTION)
    assert len(cache._cache) == 2


def test_traces_are_told_what_was_asked_for(llm):
    params = llm.model_copy(update={"temperature": 0.3})._get_ls_params(stop=["x"])
    assert (params["ls_provider"], params["ls_model_type"], params["ls_model_name"]) == (
        "amulet",
        "chat",
        "Qwen2ForCausalLM",
    )
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.3, 12, ["x"])
    assert llm._get_ls_params(model="other")["ls_model_name"] == "other"
    assert ChatAmulet(model="a/b")._get_ls_params()["ls_model_name"] == "a/b"


def test_profile_tells_the_context_and_what_the_model_can_do(llm):
    profile = llm.profile
    assert profile["max_input_tokens"] == 4096
    assert all(profile[name] for name in ("tool_calling", "tool_choice", "structured_output", "open_weights"))
    assert not profile["image_inputs"]
    assert "max_input_tokens" not in ChatAmulet(model="no/such-model").profile


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_saved_copy_answers_as_the_first(tmp_path):
    roomy_model().save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    secret = {"dtype": torch.float64, "token": "hf_secret"}
    fields = {name: CHANGES[name] for name in ("temperature", "seed", "stop", "realignment", "max_streams")}
    llm = ChatAmulet(model=str(tmp_path), model_kwargs=secret, preference="Be loud.", max_tokens=9, **fields)
    saved = json.dumps(dumpd(llm))
    assert "hf_secret" not in saved
    assert "Be loud." not in saved
    again = load(json.loads(saved), allowed_objects=[ChatAmulet], valid_namespaces=["langchain_amulet"])
    assert isinstance(again, ChatAmulet)
    ours, theirs = ({**each._identifying_params, "preference": None} for each in (llm, again))
    assert ours.pop("model_kwargs").keys() == theirs.pop("model_kwargs").keys()
    assert ours == theirs
    assert without_ids(again.invoke(QUESTION, preference="Be loud.")) == without_ids(llm.invoke(QUESTION))
