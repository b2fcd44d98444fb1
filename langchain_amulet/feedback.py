"""Learning what users prefer from what they like, without training anything."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langgraph.store.base import PutOp, SearchItem

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.exceptions import StoreTypeError
from langchain_amulet.fitting import Fit, LearningConfig, Observation, fit
from langchain_amulet.memory import PreferenceMemory
from langchain_amulet.plans import reweigh
from langchain_amulet.preferences import Preference
from langchain_amulet.records import FEEDBACK, key_of, new_change_key
from langchain_amulet.sources import FunctionStore
from langchain_amulet.stores import Plan, find_all, namespace

__all__ = ["Explanation", "FeedbackEffect", "FeedbackLearner", "LearningConfig", "WeightReport"]

_STATE_KEY = "state"
_MIN_Z = 1.64  # standard errors from 0 at which a candidate is proposed: 95 % one-sided


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What is known of one weight."""

    preference: Preference
    """As it counts now."""
    start: float
    """The part of its weight that was there before any feedback."""
    std_error: float
    """Of the weight."""


@dataclass(frozen=True, slots=True)
class FeedbackEffect:
    """What one piece of feedback has done."""

    feedback_id: str
    """As `record` and `record_comparison` have returned it."""
    at: datetime
    """When, in UTC."""
    kind: str
    """`"liked"`, `"disliked"` or `"comparison"`."""
    effects: dict[str, float] = field(repr=False)
    """By the text of a preference, by how much it moved that weight."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a user's weights are what they are: each is its start and the effects of all feedback, summed up."""

    weights: list[WeightReport]
    """In the order of the profile."""
    feedback: list[FeedbackEffect]
    """Oldest first."""
    confidence: float
    """From 0 to 1: how sure the direction of the weights is. The largest weight is as large."""


class _Learned(NamedTuple):
    """A user's profile, with what their feedback makes of it."""

    preferences: list[Preference]
    num_known: int
    """How many of them are the profile; the rest are candidates."""
    events: list[SearchItem]
    stated: dict[str, float]
    fit: Fit


class FeedbackLearner:
    """Fits the weights of users' preferences to what they like.

    For every response that a user judges, the model itself tells by how much each of their preferences makes it more
    likely: the mean over its tokens of log p(token | prompt with the preference) − log p(token | prompt). A regularised
    Bradley-Terry model then finds the weights that explain the judgements; the memory keeps them, and the next answer
    uses them. Of what was judged, only these numbers are kept. Every method has an async twin, named with an `a`.

    Args:
        llm: Reads the responses.
        memory: Whose preferences' weights are fitted; the feedback is kept in the same store.
        candidates: Texts of preferences that users may turn out to have, for `propose`.
        config: How fast, and how far, weights follow feedback.

    Example:
        >>> learner = FeedbackLearner(llm, memory)  # doctest: +SKIP
        >>> learner.record("alice", "How do I sleep better?", answer, liked=True)  # doctest: +SKIP
        >>> learner.explain("alice").weights  # doctest: +SKIP
    """

    def __init__(
        self,
        llm: ChatAmulet,
        memory: PreferenceMemory,
        *,
        candidates: Sequence[str] = (),
        config: LearningConfig | None = None,
    ) -> None:
        if isinstance(memory.store, FunctionStore):
            msg = "What is learned has to be kept: give FeedbackLearner a memory over a store that can be written."
            raise StoreTypeError(msg)
        self._llm = llm
        self._memory = memory
        self._candidates = [Preference(text, 0.0, "learned") for text in dict.fromkeys(candidates)]
        self._config = config or LearningConfig()

    def record(self, user_id: str, messages: LanguageModelInput, response: str | AIMessage, *, liked: bool) -> str:
        """Learn from a response that a user has liked or disliked.

        Args:
            user_id: Who has judged.
            messages: What the response was an answer to.
            response: The answer.
            liked: How they have judged.

        Returns:
            An id, by which `explain` names this feedback.

        Raises:
            InvalidParameterError: The response is empty.
            ContextLengthError: It is too long to be read after the messages.
        """
        texts = self._texts(self._memory.recall(user_id))
        evidence = self._llm.evidence(messages, _text(response), texts) if texts else []
        return self._memory.carry_out(user_id, self._learn(user_id, _event(texts, evidence, liked=liked)))

    async def arecord(
        self, user_id: str, messages: LanguageModelInput, response: str | AIMessage, *, liked: bool
    ) -> str:
        """Async `record`."""
        texts = self._texts(await self._memory.arecall(user_id))
        evidence = await self._llm.aevidence(messages, _text(response), texts) if texts else []
        return await self._memory.acarry_out(user_id, self._learn(user_id, _event(texts, evidence, liked=liked)))

    def record_comparison(
        self, user_id: str, messages: LanguageModelInput, better: str | AIMessage, worse: str | AIMessage
    ) -> str:
        """Learn from two responses to the same messages, of which a user prefers the first.

        Returns:
            An id, by which `explain` names this feedback.

        Raises:
            InvalidParameterError: A response is empty.
            ContextLengthError: One is too long to be read after the messages.
        """
        texts = self._texts(self._memory.recall(user_id))
        both = [self._llm.evidence(messages, _text(each), texts) if texts else [] for each in (better, worse)]
        return self._memory.carry_out(user_id, self._learn(user_id, _comparison(texts, *both)))

    async def arecord_comparison(
        self, user_id: str, messages: LanguageModelInput, better: str | AIMessage, worse: str | AIMessage
    ) -> str:
        """Async `record_comparison`."""
        texts = self._texts(await self._memory.arecall(user_id))
        both = [await self._llm.aevidence(messages, _text(each), texts) if texts else [] for each in (better, worse)]
        return await self._memory.acarry_out(user_id, self._learn(user_id, _comparison(texts, *both)))

    def explain(self, user_id: str) -> Explanation:
        """Which feedback has moved which weight, and how sure the weights are."""
        return _explanation(self._memory.carry_out(user_id, self._fitted(user_id)))

    async def aexplain(self, user_id: str) -> Explanation:
        """Async `explain`."""
        return _explanation(await self._memory.acarry_out(user_id, self._fitted(user_id)))

    def propose(self, user_id: str) -> list[Preference]:
        """Candidates that this user's feedback speaks for, or, with a negative weight, against; the surest first.

        Nothing is stored: `memory.remember(user_id, proposal)` does.
        """
        return _proposals(self._memory.carry_out(user_id, self._fitted(user_id, self._candidates)))

    async def apropose(self, user_id: str) -> list[Preference]:
        """Async `propose`."""
        return _proposals(await self._memory.acarry_out(user_id, self._fitted(user_id, self._candidates)))

    def _texts(self, profile: Sequence[Preference]) -> list[str]:
        return [*dict.fromkeys(each.text for each in (*profile, *self._candidates) if each.text.strip())]

    def _learn(self, user_id: str, event: Mapping[str, Any]) -> Plan[str]:
        """Keep one piece of feedback, and let the weights follow."""
        where, feedback_id = namespace(FEEDBACK, user_id), new_change_key()
        yield [PutOp(where, feedback_id, dict(event), index=False)]
        learned = yield from self._fitted(user_id)
        found = zip(learned.preferences, learned.fit.weights, strict=True)
        weights = {preference.text: float(weight) for preference, weight in found}
        if weights:
            written = {key_of(text): weight for text, weight in weights.items()}
            yield [PutOp(where, _STATE_KEY, {"stated": learned.stated, "written": written}, index=False)]
            yield from reweigh(user_id, weights)
        return feedback_id

    def _fitted(self, user_id: str, candidates: Sequence[Preference] = ()) -> Plan[_Learned]:
        """Fit the weights of the profile, and of candidates that are not in it."""
        where = namespace(FEEDBACK, user_id)
        profile = [each for each in (yield from self._memory.plan_to_recall(user_id)) if each.text.strip()]
        known = {each.text for each in profile}
        preferences = [*profile, *(each for each in candidates if each.text not in known)]
        items = sorted((yield from find_all(where)), key=lambda item: item.key)
        state = next((item.value for item in items if item.key == _STATE_KEY), {})
        events = [item for item in items if item.key != _STATE_KEY]
        stated = _stated(preferences, state)
        observations = [_observation(item.value) for item in events]
        found = fit([*stated], observations, [*stated.values()], self._config)
        return _Learned(preferences, len(profile), events, stated, found)


def _stated(preferences: Sequence[Preference], state: Mapping[str, Any]) -> dict[str, float]:
    """By key, the weight that the user has stated: what is there now, unless it was written here."""
    stated = {}
    for preference in preferences:
        key, weight = key_of(preference.text), min(1.0, max(-1.0, preference.weight))
        if state.get("written", {}).get(key) == preference.weight:
            stated[key] = state["stated"].get(key, 0.0)
        else:
            stated[key] = weight if preference.source == "stated" else 0.0
    return stated


def _event(texts: Sequence[str], evidence: Sequence[float], *, liked: bool) -> dict[str, Any]:
    told = {key_of(text): value for text, value in zip(texts, evidence, strict=True)}
    return {"kind": "liked" if liked else "disliked", "evidence": told, "at_ns": time.time_ns()}


def _comparison(texts: Sequence[str], better: Sequence[float], worse: Sequence[float]) -> dict[str, Any]:
    told = {key_of(text): a - b for text, a, b in zip(texts, better, worse, strict=True)}
    return {"kind": "comparison", "evidence": told, "at_ns": time.time_ns()}


def _observation(event: Mapping[str, Any]) -> Observation:
    kind = event["kind"]
    return Observation(event["evidence"], is_comparison=kind == "comparison", is_positive=kind != "disliked")


def _explanation(learned: _Learned) -> Explanation:
    found, texts = learned.fit, [each.text for each in learned.preferences]
    return Explanation(
        weights=[
            WeightReport(replace(preference, weight=float(weight)), float(start), float(std_error))
            for preference, weight, start, std_error in zip(
                learned.preferences, found.weights, found.start, found.std_errors, strict=True
            )
        ],
        feedback=[
            FeedbackEffect(
                event.key,
                datetime.fromtimestamp(event.value["at_ns"] / 1e9, UTC),
                event.value["kind"],
                dict(zip(texts, map(float, effects), strict=True)),
            )
            for event, effects in zip(learned.events, found.effects, strict=True)
        ],
        confidence=found.confidence,
    )


def _proposals(learned: _Learned) -> list[Preference]:
    found = learned.fit
    candidates = range(learned.num_known, len(learned.preferences))
    sure = [i for i in candidates if abs(found.weights[i]) > _MIN_Z * found.std_errors[i] > 0]
    sure.sort(key=lambda i: abs(found.weights[i]) / found.std_errors[i], reverse=True)
    return [replace(learned.preferences[i], weight=float(found.weights[i])) for i in sure]


def _text(response: str | AIMessage) -> str:
    return response if isinstance(response, str) else response.text
