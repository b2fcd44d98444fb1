"""In bfloat16, rounding depends on the batch; what can be asked all the same.

Alone in the engine, an answer is the same whatever has run before. In any company and from any cache, each greedy token
is nearly the best one by the plain, slow decoding in float64 of the same weights.
"""

import asyncio
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.generation import Generation
from tests.fakes.figures import count
from tests.fakes.fuzzed_calls import Call, calls
from tests.fakes.fuzzed_models import pressed, tokenizer_of, weights_of
from tests.fakes.fuzzed_runs import fuzzed, rests, run_all
from tests.fakes.reference_answers import differs, outcome_of
from tests.fakes.reference_decoding import combine, next_logits

pytestmark = pytest.mark.filterwarnings("ignore:These preferences need")
KIND = "qwen2"
SLACK = 0.6  # nats by which rounding may move the best token of these models, at the guidance scale below
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 6}


def rounded_llm(config: EngineConfig | None = None) -> ChatAmulet:
    weights = copy.deepcopy(weights_of(KIND)).to(torch.bfloat16)
    return ChatAmulet(model=weights, tokenizer=tokenizer_of(KIND), engine_config=config)


def test_answers_alone_in_bfloat16_do_not_depend_on_what_ran_before(is_campaign, progress):
    llm = rounded_llm(EngineConfig(prefix_cache_bytes=0))
    answered: dict[str, object] = {}

    @fuzzed(500 if is_campaign else 3, progress, "bfloat16, alone")
    @given(calls(max_tokens=6, is_plain=True), st.lists(calls(max_tokens=6, is_plain=True), max_size=3))
    def check(call, others):
        call = call._replace(manner="invoke", cancel_after=None)
        [[before]] = asyncio.run(run_all(llm, [call]))
        asyncio.run(run_all(llm, others))
        rests(llm.engine)
        [[after]] = asyncio.run(run_all(llm, [call]))
        count("answers compared")
        assert differs(outcome_of(after), outcome_of(before)) is None
        answered[str(call)] = after

    check()
    assert answered


def shortfall(llm: ChatAmulet, call: Call, text_ids: list[int]) -> float:
    """Return by how many nats the tokens of an answer fall short of the best ones, at most."""
    exact = copy.deepcopy(llm.load().model).to(torch.float64)
    arguments = {**call.settings, "preference": call.preferences}
    request = llm._prepare(call.messages, arguments.pop("stop", None), arguments).request
    worst = 0.0
    for number, token_id in enumerate(text_ids):
        streams = [next_logits(exact, [*prompt, *text_ids[:number]]) for prompt in request.prompts]
        log_probs = combine(streams, request, None, is_steered=True).log_softmax(-1)
        worst = max(worst, (log_probs.max() - log_probs[token_id]).item())
    return worst


def test_greedy_tokens_in_bfloat16_are_nearly_the_best_in_any_company(is_campaign, progress):
    @fuzzed(300 if is_campaign else 2, progress, "bfloat16, together")
    @given(st.lists(calls(is_plain=True), min_size=2, max_size=4), st.booleans())
    def check(asked, is_pressed):
        llm = rounded_llm(pressed(KIND) if is_pressed else None)
        engine = llm.engine
        drawn: list[tuple[Call, Generation]] = []
        for call in [*asked, *asked]:
            realignment = call.settings["realignment"].without_guards(guidance_scale=2.0)
            settings = {**GREEDY, "realignment": realignment, "seed": 0}
            request = llm._prepare(call.messages, None, {**settings, "preference": call.preferences}).request
            drawn.append((call._replace(settings=settings), engine.submit(request)))
        for call, generation in drawn:
            list(generation)
            count("requests")
            count("answers compared")
            gap = shortfall(llm, call, generation.token_ids)
            count("wrong answers", gap > SLACK)
            assert gap <= SLACK

    check()
