"""Scorers and costs, against counts by hand, plain forward passes and direct calls of transformers."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from langchain_core.messages import AIMessage
from transformers import LlamaConfig, LlamaForSequenceClassification

from langchain_amulet import ChatAmulet
from langchain_amulet.answers.repetition import distinct_ngrams, is_degenerate, repeated_ngrams, seq_rep_4, words_of
from langchain_amulet.evaluation import (
    Method,
    RewardModel,
    deterministic_scorers,
    held_out_against_opposite,
    held_out_likelihood,
    likelihood_scorers,
    log_perplexity,
    preference_evidence,
    preference_nll,
)
from langchain_amulet.evaluation.analysis.costs import measure
from langchain_amulet.evaluation.methods.method import paper_methods
from langchain_amulet.evaluation.methods.search import beam_search
from langchain_amulet.evaluation.reports.cost_tables import cost_table
from langchain_amulet.evaluation.scorers.reward_models import ArmoRM
from langchain_amulet.evaluation.scorers.text import grade_level, sentiment
from langchain_amulet.exceptions import ChatTemplateError, EngineMemoryError, InvalidParameterError, ModelLoadError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.evaluations import answer, tiny_llm
from tests.fakes.models import SIZES, tiny_model


def test_ngrams_are_counted_over_words():
    assert distinct_ngrams("The cat, the CAT, the dog.", 2) == pytest.approx(3 / 5)
    assert repeated_ngrams("a b a b a b", 3) == pytest.approx(0.5)
    assert distinct_ngrams("one", 2) is None
    assert seq_rep_4("a b c a b c a b c") == pytest.approx(3 / 6)
    assert seq_rep_4("one two three") is None


def test_vowel_signs_do_not_split_words():
    assert words_of("Wir hören's, \u0905\u091a\u094d\u091b\u0940 \u0928\u0940\u0902\u0926\u0964") == [
        "wir", "h\u00f6ren's", "\u0905\u091a\u094d\u091b\u0940", "\u0928\u0940\u0902\u0926",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("Yes, yes.", True),
        ("I am well.", False),
        ("go on and on and on and on and on and on", True),
        ("Run a little every day, and rest when you are tired; run again when you are not tired any more.", False),
    ],
)
def test_repetitive_and_very_short_answers_are_degenerate(text, expected):
    assert is_degenerate(text) is expected


def test_sentiment_and_readability_order_clear_cases():
    assert sentiment("What a wonderful, happy day!") > 0.5 > -0.5 > sentiment("A horrible, sad disaster.")
    hard = (
        "Notwithstanding considerable methodological heterogeneity, longitudinal investigations demonstrate efficacy."
    )
    assert grade_level(hard) > grade_level("The cat sat. The dog ran. It was fun.")
    assert grade_level("...") is None


def test_every_deterministic_scorer_accepts_any_text():
    for text in ("", "...", "\u4f60\u597d", "plain words here"):
        for scorer in deterministic_scorers():
            score = scorer.score(answer(text))
            assert score is None or math.isfinite(score)


def test_perplexity_and_evidence_equal_plain_forward_passes():
    llm = tiny_llm()
    loaded = llm.load()
    said, asked = answer("So it is."), [("system", "Help."), ("human", "Why?")]
    base, pref = llm.prompt_streams(asked, "Be brief.")
    expected = {}
    for name, prompt in (("base", base), ("pref", pref)):
        response = loaded.tokenizer.encode(said.text, add_special_tokens=False)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        expected[name] = logits.log_softmax(-1)[range(len(response)), response].mean().item()
    assert log_perplexity(llm, "Help.").score(said) == pytest.approx(-expected["base"], abs=1e-4)
    assert preference_evidence(llm, "Help.").score(said) == pytest.approx(expected["pref"] - expected["base"], abs=1e-4)
    assert log_perplexity(llm, "Help.").score(answer(" ")) is None


PARAPHRASED = replace(answer("So it is."), paraphrase="Keep it short.", opposite="Be long.")


def mean_log_prob(llm, said, preference):
    """By the public method for one preference, and for none."""
    preferences = [preference] if preference else []
    log_probs = llm.token_logprobs([("system", "Help."), ("human", said.question)], said.text, preferences)
    return sum(log_probs) / len(log_probs)


def test_held_out_scores_compare_a_paraphrase_with_no_preference_and_with_the_opposite():
    llm = tiny_llm()
    base, pref, held_out, opposite = (
        mean_log_prob(llm, PARAPHRASED, text) for text in ("", "Be brief.", "Keep it short.", "Be long.")
    )
    assert held_out_likelihood(llm, "Help.").score(PARAPHRASED) == pytest.approx(held_out - base)
    assert held_out_against_opposite(llm, "Help.").score(PARAPHRASED) == pytest.approx(held_out - opposite)
    assert preference_nll(llm, "Help.").score(PARAPHRASED) == pytest.approx(-pref)
    assert len({base, pref, held_out, opposite}) == 4


def test_a_preference_without_paraphrase_counts_by_its_own_text():
    llm, plain = tiny_llm(), answer("So it is.")
    expected = mean_log_prob(llm, plain, "Be brief.") - mean_log_prob(llm, plain, "")
    assert held_out_likelihood(llm, "Help.").score(plain) == pytest.approx(expected)


@pytest.mark.parametrize("opposite", ["", None])
def test_a_preference_without_opposite_has_no_score_against_it(opposite):
    unknown = replace(PARAPHRASED, preference="Mention the river Oker.", opposite=opposite)
    assert held_out_against_opposite(tiny_llm(), "Help.").score(unknown) is None


def test_answers_without_text_or_preference_have_no_likelihood_scores():
    llm = tiny_llm()
    assert [each.score(answer(" ")) for each in likelihood_scorers(llm, "Help.")] == [None] * 3
    without = [each.score(answer("So.", preference="")) for each in likelihood_scorers(llm, "Help.")]
    assert without == [None, None, pytest.approx(-mean_log_prob(llm, answer("So."), ""))]


def test_several_likelihood_scorers_read_an_answer_once_per_prompt(monkeypatch):
    asked = []

    def token_logprobs(_llm, _messages, response, preferences):
        asked.append((response, *preferences))
        return [-1.0, -2.0]

    monkeypatch.setattr(ChatAmulet, "token_logprobs", token_logprobs)
    for scorer in likelihood_scorers(tiny_llm(), "Help."):
        for said in (PARAPHRASED, replace(PARAPHRASED, key="of another method")):
            scorer.score(said)
    assert sorted(asked) == [
        (PARAPHRASED.text, *each) for each in ((), ("Be brief.",), ("Be long.",), ("Keep it short.",))
    ]


def test_a_likelihood_that_failed_is_computed_again(monkeypatch):
    outcomes = [EngineMemoryError("full"), [-1.0, -2.0]]

    def token_logprobs(*_):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(ChatAmulet, "token_logprobs", token_logprobs)
    scorer = preference_nll(tiny_llm(), "Help.")
    with pytest.raises(EngineMemoryError):
        scorer.score(PARAPHRASED)
    assert scorer.score(PARAPHRASED) == 1.5


def test_scores_by_different_models_are_stored_apart():
    names = {preference_nll(ChatAmulet(model=model), "Help.").identity for model in ("a/one", "a/two")}
    assert names == {"a/one", "a/two"}


def classifier(num_rewards: int) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "max_position_embeddings": 2048, "num_labels": num_rewards})
    return LlamaForSequenceClassification(config).eval()


@pytest.mark.parametrize(("num_rewards", "head"), [(1, None), (3, 2)])
def test_rewards_equal_those_of_a_direct_call(num_rewards, head):
    model, tokenizer = classifier(num_rewards), byte_tokenizer()
    long = "It is so because it is so. " * 20  # over the 128 tokens to which the paper's script truncates
    reward = RewardModel(model, tokenizer, head=head).scorer().score(answer(long))
    asked = [{"role": "user", "content": "Why?\nBe brief."}, {"role": "assistant", "content": long}]
    input_ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(asked, tokenize=False))])
    with torch.no_grad():
        expected = model(input_ids=input_ids).logits[0, head or 0].item()
    assert reward == pytest.approx(expected, rel=1e-5)
    shorter = RewardModel(model, tokenizer, head=head).scorer().score(answer(long[:100]))
    assert shorter != pytest.approx(reward, rel=1e-5)


class SeveralRewards(torch.nn.Module):
    """Output like that of ArmoRM's published code, with rewards in addition to logits."""

    device = torch.device("cpu")

    def forward(self, input_ids, **_):
        rewards = torch.arange(19.0)[None] + input_ids.shape[1]
        return SimpleNamespace(rewards=rewards, logits=torch.zeros(1, 1))


def test_an_output_named_rewards_precedes_logits():
    model, tokenizer = SeveralRewards(), byte_tokenizer()
    sixth = RewardModel(model, tokenizer, head=6).reward("Why?", "", "So.")
    assert sixth - RewardModel(model, tokenizer, head=0).reward("Why?", "", "So.") == 6


def test_armorm_is_loaded_without_its_gating_network(tmp_path):
    """The saved weights include those of the gating network, as in the published files."""
    torch.manual_seed(0)
    model = ArmoRM(LlamaConfig(**{**SIZES, "max_position_embeddings": 2048})).eval()
    model.gating = torch.nn.Linear(4, 2)
    model.reward_transform_matrix = torch.nn.Parameter(torch.eye(19))
    model.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    reward = RewardModel.armorm(str(tmp_path), dtype=torch.float32).reward("Why?", "Be brief.", "So.")
    asked = [{"role": "user", "content": "Why?\nBe brief."}, {"role": "assistant", "content": "So."}]
    input_ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(asked, tokenize=False))])
    with torch.no_grad():
        expected = model.regression_layer(model.model(input_ids).last_hidden_state[0, -1])[6].item()
    assert reward == pytest.approx(expected, rel=1e-5)


def test_invalid_reward_models_raise():
    with pytest.raises(InvalidParameterError, match="below 3, the number of rewards of the model, got None"):
        RewardModel(classifier(3), byte_tokenizer()).reward("Why?", "", "So.")
    with pytest.raises(InvalidParameterError, match="got 7"):
        RewardModel(classifier(3), byte_tokenizer(), head=7).reward("Why?", "", "So.")
    with pytest.raises(ChatTemplateError, match="chat_template"):
        RewardModel(classifier(1), byte_tokenizer(None)).reward("Why?", "", "So.")


@pytest.mark.default_dtype
def test_a_saved_reward_model_is_loaded_when_it_is_first_asked(tmp_path, default_dtype):
    model, tokenizer = classifier(1), byte_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = LlamaForSequenceClassification.from_pretrained(tmp_path, dtype=default_dtype).eval()
    loaded = RewardModel(str(tmp_path)).reward("Why?", "Be brief.", "So.")
    assert loaded == pytest.approx(RewardModel(model, tokenizer).reward("Why?", "Be brief.", "So."), rel=1e-5)


def test_loading_checks_that_it_is_a_reward_model(tmp_path):
    tokenizer = byte_tokenizer()
    for name, model, message in (
        ("causal", tiny_model("llama"), "is not a reward model"),
        ("several", classifier(3), "got None"),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises((ModelLoadError, InvalidParameterError), match=message):
            RewardModel(str(tmp_path / name)).load()


def test_costs_are_measured_for_every_method():
    methods = [*paper_methods()[:2], beam_search(2)]
    costs = measure(methods, ["Why?"], llm=tiny_llm(), preference="Be brief.", max_tokens=16, rounds=2)
    assert [cost.method for cost in costs] == ["base", "pref", "beam search 2"]
    assert all(cost.token_s > 0 and cost.peak_bytes > 2**20 for cost in costs)
    assert [cost.first_token_s is None for cost in costs] == [False, False, True]
    assert cost_table(costs).rows[2][1] == ""


def test_times_are_per_token_after_the_first_and_no_prompt_is_repeated(monkeypatch):
    clock, asked = [0.0], []

    def costing(name, seconds, num_tokens):
        def answer(ask):
            number = min(num_tokens, ask.sampling["max_tokens"])
            clock[0] += 10 + seconds * number
            asked.append((name, ask.messages[0].text))
            return AIMessage(
                "x", usage_metadata={"input_tokens": 1, "output_tokens": number, "total_tokens": number + 1}
            )

        return Method(name, answer)

    monkeypatch.setattr("langchain_amulet.evaluation.analysis.costs.time.perf_counter", lambda: clock[0])
    methods = [costing("a", 1, 8), costing("b", 3, 4)]
    costs = measure(methods, ["Why?"], llm=tiny_llm(), preference="p", max_tokens=8, rounds=2)
    assert [(cost.first_token_s, cost.token_s, cost.relative) for cost in costs] == [(11, 1, 1), (13, 3, 3)]
    assert [name for name, _ in asked] == [*"ab", *"aabb", *"aabb"]
    assert len({prompt for _, prompt in asked}) == 10
    assert len({len(prompt) for _, prompt in asked}) == 1, "prompts of one question have equal lengths"
