"""ChatAmulet on a tiny random model: LangChain's entry points, users, metadata, errors."""

import asyncio
import copy
import gc
import warnings
import weakref

import pytest
import torch
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.exceptions import (
    ModelClosedError,
)
from langchain_amulet.preferences import as_preferences
from langchain_amulet.stream_plan import plan_streams
from tests.fakes.chats import (
    ALICE,
    BOB,
    BRIEF,
    CHEERFUL,
    MODEL,
    QUESTION,
    SHORT,
    TOKENIZER,
    expected_answers,
    short_llm,
    users_memory,
)
from tests.fakes.engines import wait_until
from tests.fakes.models import tiny_model


@pytest.fixture
def memory() -> PreferenceMemory:
    return users_memory()


@pytest.fixture
def llm(memory) -> ChatAmulet:
    return short_llm(memory)


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    return expected_answers()


def test_invoke_reads_the_users_preferences(llm, answers):
    assert llm.invoke(QUESTION, ALICE).text == answers["alice"]
    assert llm.invoke(QUESTION, BOB).text == answers["bob"]
    assert llm.invoke(QUESTION).text == answers["visitor"]
    assert llm.invoke(QUESTION, {"configurable": {"user_id": "unknown"}}).text == answers["visitor"]


def test_stream_equals_invoke(llm, answers):
    chunks = list(llm.stream(QUESTION, ALICE))
    assert "".join(chunk.text for chunk in chunks) == answers["alice"]
    assert len(chunks) > 2
    whole = sum(chunks[1:], start=chunks[0])
    invoked = llm.invoke(QUESTION, ALICE)
    assert whole.usage_metadata == invoked.usage_metadata
    assert whole.response_metadata == invoked.response_metadata


def test_batch_answers_each_with_their_own_config(llm, answers):
    batched = llm.batch([QUESTION] * 3, [ALICE, BOB, {}])
    assert [message.text for message in batched] == [answers["alice"], answers["bob"], answers["visitor"]]


async def test_async_equals_sync(llm, answers):
    assert (await llm.ainvoke(QUESTION, ALICE)).text == answers["alice"]
    assert "".join([chunk.text async for chunk in llm.astream(QUESTION, BOB)]) == answers["bob"]
    batched = await llm.abatch([QUESTION] * 2, [BOB, ALICE])
    assert [message.text for message in batched] == [answers["bob"], answers["alice"]]


async def test_concurrent_streams_do_not_mix(llm, answers):
    async def read(config) -> str:
        return "".join([chunk.text async for chunk in llm.astream(QUESTION, config)])

    assert await asyncio.gather(*map(read, (ALICE, BOB, {}))) == [
        answers["alice"],
        answers["bob"],
        answers["visitor"],
    ]


def test_chain_passes_the_user_on(llm, answers):
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | llm | StrOutputParser()
    inputs = {"question": QUESTION}
    assert chain.invoke(inputs, ALICE) == answers["alice"]
    assert "".join(chain.stream(inputs, BOB)) == answers["bob"]
    assert chain.batch([inputs] * 2, [ALICE, BOB]) == [answers["alice"], answers["bob"]]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_events_read_the_users_preferences(llm, answers):
    assert str(llm.stream_events(QUESTION, ALICE, version="v3").text) == answers["alice"]
    stream = await llm.astream_events(QUESTION, BOB, version="v3")
    assert await stream.text == answers["bob"]
    events = [event async for event in llm.astream_events(QUESTION, ALICE, version="v2")]
    assert events[-1]["data"]["output"].text == answers["alice"]


async def test_generate_without_config_is_a_plain_answer(llm, answers):
    messages = [[("human", QUESTION)]]
    prompts = [llm._convert_input(each).to_messages() for each in messages]
    assert llm.generate(prompts).generations[0][0].text == answers["visitor"]
    assert (await llm.agenerate(prompts, preference=BRIEF)).generations[0][0].text == answers["alice"]


# Which preferences count


def test_calls_preference_replaces_the_stored_ones(llm, answers):
    assert llm.invoke(QUESTION, BOB, preference=BRIEF).text == answers["alice"]
    assert llm.invoke(QUESTION, BOB, preference=None).text == answers["visitor"]
    assert llm.invoke(QUESTION, BOB, preference=[]).text == answers["visitor"]
    assert llm.bind(preference=BRIEF).invoke(QUESTION, BOB).text == answers["alice"]


def test_field_serves_whoever_has_nothing_stored(memory, answers):
    llm = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, memory=memory, preference=BRIEF, **SHORT)
    assert llm.invoke(QUESTION).text == answers["alice"]
    assert llm.invoke(QUESTION, {"configurable": {"user_id": "unknown"}}).text == answers["alice"]
    assert llm.invoke(QUESTION, BOB).text == answers["bob"]
    assert llm.invoke(QUESTION, preference=None).text == answers["visitor"]


def test_store_is_taken_as_memory(memory, answers):
    llm = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, memory=memory.store, **SHORT)
    assert llm.invoke(QUESTION, ALICE).text == answers["alice"]


def test_configurable_field_reaches_a_new_instance_with_the_same_weights(llm, answers):
    configurable = llm.configurable_fields(preference=ConfigurableField(id="preference"))
    assert configurable.invoke(QUESTION, {"configurable": {"preference": BRIEF}}).text == answers["alice"]


def test_changed_preference_counts_at_once(llm, memory, answers):
    assert llm.invoke(QUESTION, ALICE).text == answers["alice"]
    memory.forget("alice@example.com")
    assert llm.invoke(QUESTION, ALICE).text == answers["visitor"]


# Privacy


def test_one_cache_never_serves_one_users_answer_to_another(memory, answers, cache):
    llm = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, memory=memory, cache=cache, **SHORT)
    for _ in range(2):
        assert llm.invoke(QUESTION, ALICE).text == answers["alice"]
        assert llm.invoke(QUESTION, BOB).text == answers["bob"]
        assert llm.invoke(QUESTION).text == answers["visitor"]
    assert len(cache._cache) == 3
    assert not any(text in str(cache._cache) for text in (BRIEF, CHEERFUL, "alice", "bob"))
    memory.remember("bob", BRIEF)
    memory.forget("bob", CHEERFUL)
    assert llm.invoke(QUESTION, BOB).text == answers["alice"]


def test_one_cache_tells_models_settings_and_fields_apart(cache):
    one = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, cache=cache, **SHORT)
    others = [
        ChatAmulet(model=tiny_model("qwen2", seed=6), tokenizer=TOKENIZER, cache=cache, **SHORT),
        ChatAmulet(model=MODEL, tokenizer=TOKENIZER, cache=cache, **{**SHORT, "max_tokens": 3}),
        ChatAmulet(model=MODEL, tokenizer=TOKENIZER, cache=cache, preference=BRIEF, **SHORT),
        ChatAmulet(model=MODEL, tokenizer=TOKENIZER, cache=cache, temperature=1.0, seed=1, **SHORT),
    ]
    texts = {llm.invoke(QUESTION).text for llm in [one, *others]}
    assert len(texts) == len(cache._cache) == 5
    stopping = one.model_copy(update={"stop": [one.invoke(QUESTION).text[2]]})
    assert stopping.invoke(QUESTION).text not in texts
    others[1].invoke(QUESTION, max_tokens=None)
    assert one.invoke(QUESTION, max_tokens=None).text == one.invoke(QUESTION).text


class Recorder(BaseCallbackHandler):
    """Keeps all that a tracer would see."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_chat_model_start(self, *args, **kwargs):
        self.seen.append(repr((args, kwargs)))

    def on_llm_new_token(self, *args, **kwargs):
        self.seen.append(repr((args, kwargs)))

    def on_llm_end(self, *args, **kwargs):
        self.seen.append(repr((args, kwargs)))


def test_tracers_see_no_preference_text(llm):
    recorder = Recorder()
    bound = llm.bind(preference=BRIEF)
    llm.invoke(QUESTION, {**ALICE, "callbacks": [recorder]})
    list(llm.stream(QUESTION, {"callbacks": [recorder]}, preference=CHEERFUL))
    bound.invoke(QUESTION, {"callbacks": [recorder]})
    with_field = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, preference=[BRIEF, CHEERFUL], **SHORT)
    with_field.invoke(QUESTION, {"callbacks": [recorder]})
    assigned = with_field.model_copy(update={"preference": BRIEF})
    shown = [repr(each) for each in (llm, bound, with_field, assigned, dumpd(assigned), with_field.asdict())]
    shown.append(str(assigned.model_dump(exclude={"model", "tokenizer", "memory"})))
    with pytest.raises(ValidationError) as refused:
        ChatAmulet(preference=BRIEF, temperature=-1, model_kwargs={"token": CHEERFUL})
    everything = " ".join([*recorder.seen, *shown, str(refused.value)])
    assert len(recorder.seen) > 8
    assert BRIEF not in everything
    assert CHEERFUL not in everything


def test_traces_name_provider_and_model(llm):
    params = llm._get_ls_params(stop=["x"], temperature=0.5)
    assert params["ls_provider"] == "amulet"
    assert params["ls_model_name"] == "Qwen2ForCausalLM"
    assert (params["ls_stop"], params["ls_temperature"], params["ls_max_tokens"]) == (["x"], 0.5, 12)


# Metadata


def test_metadata_of_a_personalised_answer(llm):
    base, pref = llm.prompt_streams(QUESTION, BRIEF)
    message = llm.invoke(QUESTION, ALICE)
    assert message.response_metadata == {
        "model_name": "Qwen2ForCausalLM",
        "model_provider": "amulet",
        "finish_reason": "length",
        "amulet": {"guidance_scale": 3.0, "num_streams": 2, "plausibility": 0.1},
    }
    assert message.usage_metadata == {
        "input_tokens": len(base),
        "output_tokens": 12,
        "total_tokens": len(base) + 12,
        "input_token_details": {"preference_streams": len(pref)},
    }


def test_metadata_tells_a_nucleus(llm):
    config = RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5)
    told = llm.invoke(QUESTION, ALICE, realignment=config).response_metadata["amulet"]
    assert (told["nucleus"], told["nucleus_temperature"]) == (0.8, 0.5)


def test_metadata_of_a_plain_answer(llm):
    message = llm.invoke(QUESTION)
    assert message.response_metadata["amulet"] == {"guidance_scale": 0.0, "num_streams": 1}
    assert message.usage_metadata["input_tokens"] == len(llm.prompt_streams(QUESTION)[0])


def test_prompt_streams_are_those_that_a_call_runs(llm):
    assert len(llm.prompt_streams(QUESTION)) == 1
    base, pref = llm.prompt_streams([("human", QUESTION)], BRIEF)
    assert base == TOKENIZER.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
    )
    assert TOKENIZER.decode(pref).count(BRIEF) == 1
    once = ChatAmulet(
        model=MODEL, tokenizer=TOKENIZER, preference=BRIEF, realignment=RealignmentConfig(guidance_scale=1)
    )
    assert once.prompt_streams(QUESTION) == [pref]
    assert once.prompt_streams(QUESTION, []) == [base]
    assert once.prompt_streams(QUESTION, None) == [base]


@pytest.mark.parametrize("preference", [None, BRIEF, Preference(CHEERFUL, -0.5), [BRIEF, Preference(CHEERFUL, 0.5)]])
def test_call_runs_the_prompt_streams(llm, monkeypatch, preference):
    requests = []
    submit = Engine.submit
    monkeypatch.setattr(Engine, "submit", lambda engine, request: requests.append(request) or submit(engine, request))
    llm.invoke(QUESTION, preference=preference)
    [request] = requests
    assert [list(prompt) for prompt in request.prompts] == llm.prompt_streams(QUESTION, preference)
    plan = plan_streams(as_preferences(preference), llm.realignment)
    assert request.coefficients == plan.coefficients


def test_each_stream_counts_with_its_own_weight(llm):
    """The target log q = log p_base + w Σ v_k d_k, by forwards of our own in float64."""
    profile = [BRIEF, Preference(CHEERFUL, 0.5), Preference("Sing.", -0.25)]
    config = RealignmentConfig(guidance_scale=2.0, plausibility=0.0)
    base, *preferred = llm.prompt_streams(QUESTION, profile)
    assert len(preferred) == 3
    log_base, *log_pref = (
        MODEL(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1) for ids in (base, *preferred)
    )
    gains = [1.0 * (log_pref[0] - log_base), 1.0 * (log_pref[1] - log_base), -0.5 * (log_pref[2] - log_base)]
    expected = (log_base + sum(gains)).log_softmax(-1)
    answer = llm.invoke(QUESTION, preference=profile, realignment=config, max_tokens=1, logprobs=True, top_logprobs=5)
    [told] = answer.response_metadata["logprobs"]["content"]
    assert [each["logprob"] for each in told["top_logprobs"]] == pytest.approx(
        expected.topk(5).values.tolist(), abs=1e-4
    )


# Sharing and closing


def test_instances_and_copies_share_one_engine(llm):
    engines = {
        id(each.engine)
        for each in (llm, ChatAmulet(model=MODEL, tokenizer=TOKENIZER), llm.model_copy(), copy.copy(llm))
    }
    assert len(engines) == 1


def test_closing_frees_the_model_once_nobody_uses_it():
    model = tiny_model()
    first, second = (ChatAmulet(model=model, tokenizer=TOKENIZER, **SHORT) for _ in range(2))
    text = first.invoke(QUESTION).text
    freed = weakref.ref(model)
    del model
    first.close()
    assert second.invoke(QUESTION).text == text
    second.close()
    wait_until(lambda: gc.collect() >= 0 and freed() is None)  # the worker's last step may be under way
    with pytest.raises(ModelClosedError, match="Make a new one"):
        first.invoke(QUESTION)


def test_construction_loads_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ChatAmulet(model="no/such-model")._loaded is None


def test_greedy_answers_do_not_depend_on_torchs_generator(llm, answers):
    torch.manual_seed(123)
    assert llm.invoke(QUESTION, ALICE).text == answers["alice"]
