"""Scorers by the likelihood of answers under a language model: the evaluated one, or another one."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.scorer import Scorer, messages_of
from langchain_amulet.opposites import opposite_of
from langchain_amulet.preferences import Preference
from langchain_amulet.realignment import RealignmentConfig

HELD_OUT, HELD_OUT_OPPOSITE = "held-out likelihood", "held-out likelihood against the opposite"
PREFERENCE_NLL = "NLL under the preference"
"""Names of the scorers."""

_PROMPTED = RealignmentConfig.classifier_free_guidance(1.0)
_AT_ONCE = 32  # answers; the engine reads those that wait together in batches


class Likelihoods:
    """Mean log-probabilities of answers under a model. Each is computed once, however many scorers ask for it.

    Args:
        llm: The model.
        system: System prompt of the evaluation.
    """

    def __init__(self, llm: ChatAmulet, system: str) -> None:
        # Scores must not depend on what prompts of the default settings contain.
        self._llm, self._system = llm.model_copy(update={"realignment": _PROMPTED}), system
        self._means: dict[tuple[str, str, str], Future[float]] = {}
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """The name of the model."""
        return str(self._llm._get_ls_params().get("ls_model_name") or "")  # noqa: SLF001 - the name in traces

    def mean(self, answer: Answer, instruction: str = "") -> float:
        """Return the mean over an answer's tokens of log p(token | question and instruction), in nats.

        Args:
            answer: An answer whose text has at least one token.
            instruction: What the prompt contains as the user's preference. Empty: nothing.
        """
        key = (answer.question, instruction, answer.text)
        with self._lock:
            is_first = key not in self._means
            future = self._means.setdefault(key, Future())
        if is_first:
            try:
                future.set_result(self._computed_mean(*key))
            except BaseException as error:  # noqa: BLE001 - result() raises it; the next caller tries again
                del self._means[key]
                future.set_exception(error)
        return future.result()

    def _computed_mean(self, question: str, instruction: str, text: str) -> float:
        preferences = [instruction] if instruction else []
        log_probs = self._llm.token_logprobs(messages_of(self._system, question), text, preferences)
        return sum(log_probs) / len(log_probs)


def log_perplexity(llm: ChatAmulet, system: str, *, limit: int | None = None) -> Scorer:
    """Return a scorer: the mean of −log π_base over the tokens of an answer, in nats, without any preference.

    High values indicate broken text. Low values are not good as such: models give repetitive text a low perplexity. The
    scorer uses the logarithm, since a few broken answers would dominate a mean of perplexities.

    Args:
        llm: The model.
        system: System prompt of the evaluation.
        limit: Score only the answers to the first `limit` questions of each dataset.
    """
    likelihoods = Likelihoods(llm, system)
    return _scorer("log-perplexity", lambda answer: -likelihoods.mean(answer), limit=limit)


def preference_evidence(llm: ChatAmulet, system: str) -> Scorer:
    """Return a scorer: the mean of log π_pref − log π_base over the tokens of an answer, in nats.

    It measures how strongly an answer follows the preference according to the model itself. It does not measure
    quality: realignment with w > 1 increases it by construction.

    Args:
        llm: The model.
        system: System prompt of the evaluation.
    """
    likelihoods = Likelihoods(llm, system)

    def score(answer: Answer) -> float | None:
        if not answer.preference:
            return None
        return likelihoods.mean(answer, answer.preference) - likelihoods.mean(answer)

    return _scorer("evidence", score)


def likelihood_scorers(llm: ChatAmulet, system: str, *, limit: int | None = None) -> list[Scorer]:
    """Return the scorers by another model: `held_out_likelihood`, `held_out_against_opposite` and `preference_nll`.

    An answer is read once per prompt, though several scorers need it. Prefer another model than the evaluated one: a
    model finds its own answers likely.

    Args:
        llm: The model that scores, such as a larger one.
        system: System prompt of the evaluation.
        limit: Score only the answers to the first `limit` questions of each dataset.
    """
    likelihoods = Likelihoods(llm, system)
    return [
        _held_out_likelihood(likelihoods, limit),
        _held_out_against_opposite(likelihoods, limit),
        _preference_nll(likelihoods, limit),
    ]


def held_out_likelihood(llm: ChatAmulet, system: str, *, limit: int | None = None) -> Scorer:
    """Return a scorer: the mean of log p(token | paraphrase) − log p(token | no preference), in nats per token.

    It measures how much more likely an answer is if the preference is asked for in other words. A dimension without a
    paraphrase counts by its own text.

    Args:
        llm: The model that scores. Prefer another one than the evaluated one.
        system: System prompt of the evaluation.
        limit: Score only the answers to the first `limit` questions of each dataset.
    """
    return _held_out_likelihood(Likelihoods(llm, system), limit)


def held_out_against_opposite(llm: ChatAmulet, system: str, *, limit: int | None = None) -> Scorer:
    """Return a scorer: the mean of log p(token | paraphrase) − log p(token | opposite), in nats per token.

    Unlike `held_out_likelihood`, it does not reward what any instruction makes more likely. An answer for a
    preference without an opposite has no score.

    Args:
        llm: The model that scores. Prefer another one than the evaluated one.
        system: System prompt of the evaluation.
        limit: Score only the answers to the first `limit` questions of each dataset.
    """
    return _held_out_against_opposite(Likelihoods(llm, system), limit)


def preference_nll(llm: ChatAmulet, system: str, *, limit: int | None = None) -> Scorer:
    """Return a scorer: the mean of −log p(token | preference) over the tokens of an answer, in nats.

    High values indicate broken text. Unlike `log_perplexity`, it does not call an answer broken for following the
    preference, such as one in French. Low values are not good as such: repetitive text has a low one.

    Args:
        llm: The model that scores. Prefer another one than the evaluated one.
        system: System prompt of the evaluation.
        limit: Score only the answers to the first `limit` questions of each dataset.
    """
    return _preference_nll(Likelihoods(llm, system), limit)


def _held_out_likelihood(likelihoods: Likelihoods, limit: int | None) -> Scorer:
    def score(answer: Answer) -> float | None:
        if not (paraphrase := _paraphrase(answer)):
            return None
        return likelihoods.mean(answer, paraphrase) - likelihoods.mean(answer)

    return _scorer(HELD_OUT, score, limit=limit, identity=likelihoods.identity)


def _held_out_against_opposite(likelihoods: Likelihoods, limit: int | None) -> Scorer:
    def score(answer: Answer) -> float | None:
        paraphrase = _paraphrase(answer)
        opposite = opposite_of(Preference(answer.preference, opposite=answer.opposite)) if paraphrase else None
        if not opposite:
            return None
        return likelihoods.mean(answer, paraphrase) - likelihoods.mean(answer, opposite)

    return _scorer(HELD_OUT_OPPOSITE, score, limit=limit, identity=likelihoods.identity)


def _preference_nll(likelihoods: Likelihoods, limit: int | None) -> Scorer:
    def score(answer: Answer) -> float | None:
        return -likelihoods.mean(answer, answer.preference)

    return _scorer(PREFERENCE_NLL, score, limit=limit, identity=likelihoods.identity)


def _paraphrase(answer: Answer) -> str:
    return answer.paraphrase or answer.preference


def _scorer(
    name: str, score: Callable[[Answer], float | None], *, limit: int | None = None, identity: str = ""
) -> Scorer:
    """Return a scorer that scores many answers at once, but not those without text."""

    def score_text(answer: Answer) -> float | None:
        return score(answer) if answer.text.strip() else None

    return Scorer(name, score_text, is_stored=True, limit=limit, identity=identity, num_at_once=_AT_ONCE)
