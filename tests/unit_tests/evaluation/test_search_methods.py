"""Methods that look at several answers: beam search, and the best of some samples."""

from dataclasses import replace

import torch
from transformers import GenerationConfig

from langchain_amulet.evaluation import (
    Ask,
    beam_search,
    best_of,
    paper_methods,
)
from langchain_amulet.evaluation.scorers.scorer import messages_of
from tests.fakes.evaluations import BRIEF, LOUD, PROTOCOL, texts


def test_search_methods_answer(run):
    evaluation = run([beam_search(3), best_of(2), paper_methods()[1]], protocol=replace(PROTOCOL, temperatures=(0.0,)))
    for name in ("beam search 3", "best of 2"):
        assert len(texts(evaluation, name)) == 2
    assert all(answer.num_tokens <= 8 for answer in evaluation.answers)


def test_beam_search_with_one_beam_is_greedy(run):
    evaluation = run([beam_search(1), paper_methods()[1]], protocol=replace(PROTOCOL, temperatures=(0.0,)))
    assert texts(evaluation, "beam search 1") == texts(evaluation, "pref")


def test_beam_search_equals_that_of_transformers(run, llm):
    result = run([beam_search(4), paper_methods()[1]], protocol=replace(PROTOCOL, temperatures=(0.0,)))
    loaded, differs = llm.load(), False
    for name, question in (("a", "Why?"), ("b", "How?")):
        for preference in (BRIEF, LOUD):
            prompt = llm.prompt_streams(messages_of(PROTOCOL.system, question), preference.text)[-1]
            config = GenerationConfig(num_beams=4, max_new_tokens=8, pad_token_id=0)
            expected = loaded.model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
            expected_text = loaded.tokenizer.decode(expected, skip_special_tokens=True)
            assert texts(result, "beam search 4", dimension=preference.name)["two", name] == expected_text
            differs |= expected_text != texts(result, "pref", dimension=preference.name)["two", name]
    assert differs


def test_best_of_n_returns_the_sample_with_most_evidence(llm):
    ask = Ask(llm, messages_of("", "Why?"), "Be brief.", {"temperature": 0.7, "max_tokens": 8, "seed": 3})
    draws = [best_of(1).generate(ask._replace(sampling={**ask.sampling, "seed": 3 + i})).text for i in range(4)]
    assert len(set(draws)) > 1
    evidence = {text: llm.evidence(ask.messages, text, ["Be brief."])[0] for text in draws}
    assert best_of(4).generate(ask).text == max(draws, key=evidence.__getitem__)
    assert draws[0] == paper_methods()[1].generate(ask).text


def test_search_methods_may_have_a_limit(run):
    evaluation = run([best_of(2), paper_methods()[1]], protocol=replace(PROTOCOL, search_limit=1))
    assert (len(texts(evaluation, "best of 2")), len(texts(evaluation, "pref"))) == (1, 2)
