"""Traces of answers: `trace=True` reports how each token was drawn, and changes nothing else."""

import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.tracers.base import BaseTracer

from langchain_amulet import ChatAmulet, Preference, RealignmentConfig
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.trace import Trace, render_trace
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model
from tests.fakes.roomy import saying, tokenizer_of

QUESTION = "Why?"
BRIEF = Preference("Be brief.", opposite="Be lengthy.")
CONTRASTS = ["base", "neutral", "opposite"]


def chat(contrast="opposite", **settings) -> ChatAmulet:
    realignment = RealignmentConfig(guidance_scale=3.0, contrast=contrast)
    values = {"max_tokens": 16, "realignment": realignment, **settings}
    return ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer(), **values)


def joined(chunks) -> AIMessage:
    return sum(chunks[1:], start=chunks[0])


def plan_of(message: AIMessage) -> dict:
    kept = {name: value for name, value in message.response_metadata["amulet"].items() if not name.startswith("trace")}
    return {**message.response_metadata, "amulet": kept}


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("preference", [None, BRIEF, [BRIEF, Preference("Be kind.", 0.3)], Preference("Be odd.", -1.0)])
def test_a_trace_changes_neither_the_answer_nor_its_other_metadata(contrast, preference):
    llm = chat(contrast, temperature=1.0, seed=4)
    traced, plain = (llm.invoke(QUESTION, preference=preference, trace=each) for each in (True, False))
    assert (traced.text, traced.usage_metadata) == (plain.text, plain.usage_metadata)
    assert plan_of(traced) == plain.response_metadata
    assert len(Trace.of(traced).tokens) == plain.usage_metadata["output_tokens"]


def test_plain_prompting_stays_unguarded_with_a_trace():
    prompting = RealignmentConfig(guidance_scale=1.0, plausibility=0.9)
    llm = chat(realignment=prompting, temperature=1.5, seed=4)
    traced, plain = (llm.invoke(QUESTION, preference=BRIEF, trace=each) for each in (True, False))
    assert traced.text == plain.text
    assert {(token.gain, token.removed_mass) for token in Trace.of(traced).tokens} == {(1.0, 0.0)}


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_token_s_probability_is_that_of_its_logprob(contrast):
    message = chat(contrast).invoke(QUESTION, preference=BRIEF, trace=True, logprobs=True)
    logprobs = [entry["logprob"] for entry in message.response_metadata["logprobs"]["content"]]
    tokens = Trace.of(message).tokens
    assert len(tokens) == len(logprobs)
    assert [token.token.realigned for token in tokens] == pytest.approx(
        [2.718281828**each for each in logprobs], rel=1e-4
    )


def test_the_policies_are_those_of_the_prompts_alone():
    llm = chat()
    first = Trace.of(llm.invoke(QUESTION, preference=BRIEF, trace=True)).tokens[0]
    alone = [
        llm.invoke(QUESTION, preference=each, trace=True, realignment=RealignmentConfig.classifier_free_guidance(1.0))
        for each in (None, "Be brief.", "Be lengthy.")
    ]
    base, prompted, contrast = (Trace.of(message).tokens[0] for message in alone)
    assert first.base_choice.base == pytest.approx(base.token.realigned)
    assert first.prompted_choice.prompted == pytest.approx(prompted.token.realigned)
    expected = {each.token_id: each.realigned for each in contrast.candidates}
    shared = [each for each in first.candidates if each.token_id in expected]
    assert shared
    assert [each.contrast for each in shared] == pytest.approx([expected[each.token_id] for each in shared])


@pytest.mark.parametrize("weights", [(1.0, 0.5), (0.4,), (-1.0,)])
def test_the_gain_is_the_scale_times_the_largest_weight(weights):
    preferences = [Preference(text, weight) for text, weight in zip(("Be brief.", "Be kind."), weights, strict=False)]
    message = chat("base").invoke(QUESTION, preference=preferences, trace=True)
    assert [token.gain for token in Trace.of(message).tokens] == pytest.approx([3.0 * weights[0]] * 16)


def test_a_plain_answer_is_not_moved():
    message = chat().invoke(QUESTION, preference=None, trace=True)
    assert {(token.kl, token.gain, token.is_changed, token.is_guarded) for token in Trace.of(message).tokens} == {
        (0.0, 0.0, False, False)
    }


def test_streamed_traces_join_to_that_of_invoke():
    llm = chat()
    chunks = list(llm.stream(QUESTION, preference=BRIEF, trace=True))
    assert Trace.of(joined(chunks)) == Trace.of(llm.invoke(QUESTION, preference=BRIEF, trace=True))
    assert len([chunk for chunk in chunks if chunk.response_metadata.get("amulet", {}).get("trace")]) > 1


async def test_async_answers_and_batches_are_traced():
    llm = chat().bind(preference=BRIEF, trace=True)
    expected = Trace.of(llm.invoke(QUESTION))
    assert Trace.of(await llm.ainvoke(QUESTION)) == expected
    assert [Trace.of(each).text for each in llm.batch([QUESTION, QUESTION])] == [expected.text] * 2


def test_the_token_that_ends_the_answer_is_traced_without_text():
    tokenizer = tokenizer_of("smollm2")
    tokens = [*tokenizer.encode("a漢!"), tokenizer.eos_token_id]
    llm = ChatAmulet(model=saying(tokens, after=tokenizer.encode("\n")[0]), tokenizer=tokenizer)
    trace = Trace.of(llm.invoke(QUESTION, preference=BRIEF, trace=True))
    assert [token.token.token_id for token in trace.tokens] == tokens
    assert (trace.text, trace.tokens[-1].text, trace.tokens[-1].token.text) == ("a漢!", "", tokenizer.eos_token)


def test_tokens_after_a_stop_string_are_not_traced():
    llm = chat()
    text = llm.invoke(QUESTION, preference=BRIEF).text
    message = llm.invoke(QUESTION, preference=BRIEF, trace=True, stop=[text[4:6]])
    assert len(Trace.of(message).tokens) == message.usage_metadata["output_tokens"] < 16


def test_the_summary_is_that_of_the_tokens():
    message = chat().invoke(QUESTION, preference=BRIEF, trace=True)
    trace, summary = Trace.of(message), message.response_metadata["amulet"]["trace_summary"]
    assert summary == trace.summary()
    assert summary["mean_kl"] == pytest.approx(sum(token.kl for token in trace.tokens) / 16, rel=1e-4)
    assert summary["share_changed"] == sum(token.is_changed for token in trace.tokens) / 16
    assert summary["max_kl"] == max(token.kl for token in trace.tokens)


def test_a_trace_survives_json():
    message = chat().invoke(QUESTION, preference=BRIEF, trace=True)
    entries = json.loads(json.dumps(message.response_metadata["amulet"]["trace"], allow_nan=False))
    assert Trace.from_entries(entries) == Trace.of(message)
    assert Trace.of(message).entries() == message.response_metadata["amulet"]["trace"]


def test_an_answer_without_a_trace_has_none():
    message = chat().invoke(QUESTION, preference=BRIEF)
    assert not {"trace", "trace_summary"} & message.response_metadata["amulet"].keys()
    with pytest.raises(InvalidParameterError, match=r"has no trace. Ask for one: llm.invoke"):
        Trace.of(message)


def test_only_a_bool_turns_the_trace_on():
    with pytest.raises(InvalidParameterError, match="trace must be a bool, got str"):
        chat().invoke(QUESTION, trace="yes")


def test_the_cache_of_answers_tells_traced_ones_apart():
    llm = chat(cache=InMemoryCache())
    llm.invoke(QUESTION, preference=BRIEF)
    assert Trace.of(llm.invoke(QUESTION, preference=BRIEF, trace=True)).tokens
    assert Trace.of(chat(cache=llm.cache, trace=True).invoke(QUESTION, preference=BRIEF)).tokens


def test_no_text_of_a_preference_or_its_opposite_is_in_a_trace():
    secrets = Preference("Zanzibarize it.", opposite="Quixotize it.")
    tracer = FakeTracer()
    message = chat().invoke(QUESTION, {"callbacks": [tracer]}, preference=secrets, trace=True)
    trace = Trace.of(message)
    seen = f"{message!r} {trace!r} {tracer.runs} {render_trace(trace)} {chat(trace=True)!r}"
    assert not [word for word in ("anzibar", "uixot") if word in seen]
    assert "trace_summary" in str(tracer.runs), "else nothing was seen"


class FakeTracer(BaseTracer):
    """Keeps every run, as LangSmith's tracer would send it."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple] = []

    def _persist_run(self, run):
        self.runs.append((run.inputs, run.outputs, run.extra))
