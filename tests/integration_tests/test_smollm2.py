"""On real weights: the packaged SmolLM2-135M-Instruct, in float32."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig
from langchain_amulet.engine import Engine, EngineConfig, Request, SamplingParams, TransformersRunner

QUESTIONS = [
    "How can I sleep better at night?",
    "What is a good way to learn the guitar?",
    "Warum ist der Himmel blau?",
]
PREFERENCES = ["Answer as concisely as possible.", "Your answer should be uplifting as much as possible."]
PAPER = RealignmentConfig.paper()
COLD = EngineConfig(prefix_cache_bytes=0)


@pytest.fixture(scope="module")
def llm(is_campaign) -> ChatAmulet:
    return ChatAmulet(model_kwargs={"dtype": "float32"}, max_tokens=48 if is_campaign else 20)


def transformers_greedy(llm: ChatAmulet, prompt: list[int], **keywords) -> list[int]:
    """Transformers' own answer, and its end-of-turn token left out as ours leaves it out."""
    model: Any = llm.load().model
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=llm.max_tokens, do_sample=False, **keywords
    )[0, len(prompt) :].tolist()
    return output[:-1] if output[-1] == model.generation_config.eos_token_id else output


def ours(llm: ChatAmulet, prompts: list[list[int]], realignment: RealignmentConfig = PAPER) -> list[int]:
    eos = frozenset([llm.load().model.generation_config.eos_token_id])
    sampling = SamplingParams(max_tokens=llm.max_tokens, stop_token_ids=eos)
    return list(llm.engine.submit(Request(prompts, [1.0] * (len(prompts) - 1), realignment, sampling)))


@pytest.mark.parametrize("preference", PREFERENCES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_equals_transformers_cfg_token_for_token(llm, question, preference):
    base, pref = llm.prompt_streams([("system", "You are a helpful assistant."), ("human", question)], preference)
    expected = transformers_greedy(
        llm, pref, guidance_scale=PAPER.guidance_scale, negative_prompt_ids=torch.tensor([base])
    )
    assert ours(llm, [base, pref]) == expected


def test_no_iterations_equal_plain_generation_on_the_preference_prompt(llm):
    _, pref = llm.prompt_streams(QUESTIONS[0], PREFERENCES[0])
    no_iterations = RealignmentConfig.amulet(num_iterations=0)
    text = llm.invoke(QUESTIONS[0], preference=PREFERENCES[0], realignment=no_iterations).text
    expected = transformers_greedy(llm, pref)
    assert text == llm.load().tokenizer.decode(expected)
    # The pair of streams at w = 1 agrees with the preference stream alone.
    base = llm.prompt_streams(QUESTIONS[0])[0]
    assert ours(llm, [base, pref], RealignmentConfig.classifier_free_guidance(1.0)) == expected


def test_scale_zero_equals_plain_generation_on_the_base_prompt(llm):
    [base] = llm.prompt_streams(QUESTIONS[0])
    zero = RealignmentConfig(guidance_scale=0.0)
    text = llm.invoke(QUESTIONS[0], preference=PREFERENCES[0], realignment=zero).text
    expected = transformers_greedy(llm, base)
    assert text == llm.load().tokenizer.decode(expected)
    _, pref = llm.prompt_streams(QUESTIONS[0], PREFERENCES[0])
    assert ours(llm, [base, pref], RealignmentConfig.classifier_free_guidance(0.0)) == expected


def test_two_users_and_a_visitor_read_different_answers_of_one_chain(llm):
    memory = PreferenceMemory()
    memory.remember("alice@example.com", "Answer in one short sentence.")
    memory.remember("bob@example.com", "Explain it to a five-year-old child.")
    personal = llm.model_copy(update={"memory": memory})
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | personal | StrOutputParser()
    configs = [{"configurable": {"user_id": user}} for user in ("alice@example.com", "bob@example.com")]
    alice, bob, visitor = ("".join(chain.stream({"question": QUESTIONS[0]}, config)) for config in [*configs, {}])
    assert len({alice, bob, visitor}) == 3
    assert len(alice) < len(visitor)
    assert visitor == llm.invoke(QUESTIONS[0]).text


@pytest.mark.default_dtype
def test_packaged_model_answers_in_the_default_dtype_and_in_batches(default_dtype, caplog):
    llm = ChatAmulet(max_tokens=4)
    message = llm.invoke("Hello!", preference=PREFERENCES[0])
    assert llm.load().model.dtype == default_dtype
    assert message.text
    assert message.response_metadata["amulet"]["num_streams"] == 2
    assert "one after another" not in caplog.text


@pytest.fixture(scope="module")
def requests(llm, is_campaign) -> list[Request]:
    """Six users of different preference and strength, with conversations of different length."""
    sampling = SamplingParams(max_tokens=20 if is_campaign else 10)
    streams = [
        llm.prompt_streams([("system", "You are a helpful assistant."), ("human", question * (1 + 3 * (i % 2)))], text)
        for i, question in enumerate(QUESTIONS)
        for text in PREFERENCES
    ]
    scales = [PAPER, RealignmentConfig(), RealignmentConfig(guidance_scale=3.0)] * 2
    return [Request(s, [1.0], w, sampling, None, ["", ""]) for s, w in zip(streams, scales, strict=True)]


@pytest.fixture(scope="module")
def one_by_one(llm, requests) -> list[list[int]]:
    engine = Engine(TransformersRunner(llm.load().model), COLD)
    return [list(engine.submit(request)) for request in requests]


def test_batched_joined_late_and_chunked_equal_one_by_one(llm, requests, one_by_one):
    config = EngineConfig(prefix_cache_bytes=0, prefill_tokens=32)
    engine = Engine(TransformersRunner(llm.load().model), config)
    early = [engine.submit(request) for request in requests[:2]]
    first = [next(generation) for generation in early]
    late = [engine.submit(request) for request in requests[2:]]
    answers = [[token, *generation] for token, generation in zip(first, early, strict=True)]
    assert answers + [list(generation) for generation in late] == one_by_one


def test_prefix_cached_equals_cold(llm, requests, one_by_one):
    engine = Engine(TransformersRunner(llm.load().model))
    for _ in range(2):
        assert [list(generation) for generation in [engine.submit(r) for r in requests]] == one_by_one
    assert engine.stats.num_reused_tokens > sum(len(prompt) for r in requests for prompt in r.prompts) - 20


def test_preempted_equals_never_preempted(llm, requests, one_by_one, monkeypatch):
    monkeypatch.setattr("langchain_amulet.engine.admission._HEADROOM", 0)
    runner = TransformersRunner(llm.load().model)
    longest = max(len(prompt) for request in requests for prompt in request.prompts)
    room = longest + requests[0].sampling.max_tokens // 2  # tokens per row
    config = EngineConfig(cache_bytes=4 * room * runner.bytes_per_token, prefix_cache_bytes=0)
    engine = Engine(runner, config)
    assert [list(generation) for generation in [engine.submit(r) for r in requests]] == one_by_one
    assert engine.stats.num_preemptions


def test_empty_preference_is_a_plain_answer(llm):
    assert llm.prompt_streams(QUESTIONS[0], "") == llm.prompt_streams(QUESTIONS[0])


def test_streamed_text_equals_the_decoding_of_all_tokens(llm):
    question = "Write three emojis and the word for moon in Chinese, Arabic and Hindi."
    chunks = [chunk.text for chunk in llm.stream(question, temperature=1.2, seed=3)]
    assert "".join(chunks) == llm.invoke(question, temperature=1.2, seed=3).text


@pytest.mark.slow
def test_second_load_takes_at_most_a_third_of_the_first(tmp_path, is_campaign):
    if not is_campaign:
        pytest.skip("converts the packaged model, which takes a minute: make campaign")
    script = (
        "import time, langchain_amulet.models.registry as models; started = time.perf_counter(); models.load();"
        "print(time.perf_counter() - started)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def seconds() -> float:
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        return float(run.stdout)

    started = time.perf_counter()
    first, second = seconds(), seconds()
    assert second <= first / 3, (first, second, time.perf_counter() - started)
