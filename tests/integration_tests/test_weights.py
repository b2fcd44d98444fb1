"""What weights do to the answers of the packaged model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from langchain_amulet import ChatAmulet, Preference
from tests.benchmarks.feedback import QUESTIONS

TEXT = "Write a numbered list of steps."


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dislike_lowers_what_a_like_raises(is_campaign):
    """The mean of d over the tokens of the answers, in nats per token."""
    llm = ChatAmulet(model_kwargs={"dtype": "float32"}, temperature=0, max_tokens=10)
    weights = {"like": 1.0, "plain": 0.0, "dislike": -1.0}

    def evidence(job: tuple[float, str]) -> float:
        weight, question = job
        answer = llm.invoke(question, preference=Preference(TEXT, weight)).text
        return llm.evidence(question, answer, [TEXT])[0]

    jobs = [(weight, question) for weight in weights.values() for question in QUESTIONS[: 20 if is_campaign else 8]]
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = np.array([*threads.map(evidence, jobs)]).reshape(len(weights), -1)
    means = dict(zip(weights, found.mean(axis=1), strict=True))
    assert means["like"] > means["plain"] > means["dislike"], means
