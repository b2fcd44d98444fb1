"""Learning what users prefer from what they like, without training anything."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.exceptions import StoreTypeError
from langchain_amulet.feedback.bradley_terry import Fit, LearningConfig, Observation, fit
from langchain_amulet.memory.items import FeedbackEvent, FeedbackKind, Kept, key_of
from langchain_amulet.memory.operations import find_events, keep_event, keep_learned
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.memory.sources import FunctionStore
from langchain_amulet.memory.store_ops import StoreOperation
from langchain_amulet.preferences import Preference

_HORIZON = 20  # half-lives: older feedback counts less than a millionth, and is deleted
_MIN_Z = 1.64  # standard errors from 0 at which a candidate is proposed: 95 % one-sided


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What is known of one weight."""

    preference: Preference
    """As it counts now."""
    fitted_weight: float
    """What the feedback makes of its weight; it counts unless the user has said something else since."""
    start: float
    """The part of the fitted weight that was there before any feedback, on the same scale."""
    std_error: float
    """Of the fitted weight."""


@dataclass(frozen=True, slots=True)
class FeedbackEffect:
    """What one piece of feedback has done."""

    feedback_id: str
    """As `record` and `record_comparison` have returned it."""
    at: datetime
    """When, in UTC."""
    kind: FeedbackKind
    effects: dict[str, float] = field(repr=False)
    """By the text of a preference, by how much it moved that fitted weight."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a user's weights are what they are: each fitted one is its start and the effects of all feedback, summed up.

    The largest is scaled to the confidence, and the others, starts and effects with it.
    """

    weights: list[WeightReport]
    """In the order of the profile."""
    feedback: list[FeedbackEffect]
    """Oldest first."""
    confidence: float
    """From 0 to 1: how sure the direction of the weights is. The largest weight is as large."""


class _Known(NamedTuple):
    """What the memory holds of a user."""

    profile: list[Kept]
    events: dict[str, FeedbackEvent]


class _Learned(NamedTuple):
    """A user's profile, with what their feedback makes of it."""

    preferences: list[Kept]
    num_known: int
    """How many of them are the profile; the rest are candidates."""
    events: dict[str, FeedbackEvent]
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
        return self._learn(user_id, _event("liked" if liked else "disliked", texts, evidence))

    async def arecord(
        self, user_id: str, messages: LanguageModelInput, response: str | AIMessage, *, liked: bool
    ) -> str:
        """Async `record`."""
        texts = self._texts(await self._memory.arecall(user_id))
        evidence = await self._llm.aevidence(messages, _text(response), texts) if texts else []
        return await self._alearn(user_id, _event("liked" if liked else "disliked", texts, evidence))

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
        return self._learn(user_id, _event("comparison", texts, _difference(*both)))

    async def arecord_comparison(
        self, user_id: str, messages: LanguageModelInput, better: str | AIMessage, worse: str | AIMessage
    ) -> str:
        """Async `record_comparison`."""
        texts = self._texts(await self._memory.arecall(user_id))
        both = [await self._llm.aevidence(messages, _text(each), texts) if texts else [] for each in (better, worse)]
        return await self._alearn(user_id, _event("comparison", texts, _difference(*both)))

    def explain(self, user_id: str) -> Explanation:
        """Which feedback has moved which weight, and how sure the weights are."""
        return _explanation(self._fit(self._memory.read(self._plan_to_read(user_id))))

    async def aexplain(self, user_id: str) -> Explanation:
        """Async `explain`."""
        known = await self._memory.aread(self._plan_to_read(user_id))
        return _explanation(await asyncio.to_thread(self._fit, known))

    def propose(self, user_id: str) -> list[Preference]:
        """Candidates that this user's feedback speaks for, or, with a negative weight, against; the surest first.

        Nothing is stored: `memory.remember(user_id, proposal)` does.
        """
        return _proposals(self._fit(self._memory.read(self._plan_to_read(user_id)), self._candidates))

    async def apropose(self, user_id: str) -> list[Preference]:
        """Async `propose`."""
        known = await self._memory.aread(self._plan_to_read(user_id))
        return _proposals(await asyncio.to_thread(self._fit, known, self._candidates))

    def _texts(self, profile: Sequence[Preference]) -> list[str]:
        return [*dict.fromkeys(each.text for each in (*profile, *self._candidates) if each.text.strip())]

    def _learn(self, user_id: str, event: FeedbackEvent) -> str:
        """Keep one piece of feedback, and let the weights follow."""
        feedback_id, known = self._memory.carry_out(user_id, self._plan_to_keep(user_id, event))
        self._memory.carry_out(user_id, self._plan_to_write(user_id, known, self._fit(known)))
        return feedback_id

    async def _alearn(self, user_id: str, event: FeedbackEvent) -> str:
        feedback_id, known = await self._memory.acarry_out(user_id, self._plan_to_keep(user_id, event))
        learned = await asyncio.to_thread(self._fit, known)
        await self._memory.acarry_out(user_id, self._plan_to_write(user_id, known, learned))
        return feedback_id

    def _plan_to_keep(self, user_id: str, event: FeedbackEvent) -> StoreOperation[tuple[str, _Known]]:
        feedback_id = yield from keep_event(user_id, event)
        return feedback_id, (yield from self._plan_to_read(user_id))

    def _plan_to_read(self, user_id: str) -> StoreOperation[_Known]:
        profile = yield from self._memory.plan_to_recall(user_id)
        events = yield from find_events(user_id)
        return _Known([each for each in profile if each.preference.text.strip()], events)

    def _plan_to_write(self, user_id: str, known: _Known, learned: _Learned) -> StoreOperation[None]:
        found = zip(known.profile, learned.fit.weights, strict=True)
        now = {each.preference.text for each in (yield from self._memory.plan_to_recall(user_id))}
        # Nothing is kept of what was forgotten while the weights were fitted.
        weights = {
            each.preference.text: (each.stated, float(weight)) for each, weight in found if each.preference.text in now
        }
        outdated = known.events.keys() - learned.events.keys()
        if weights or outdated:
            yield from keep_learned(user_id, weights, sorted(outdated))

    def _fit(self, known: _Known, candidates: Sequence[Preference] = ()) -> _Learned:
        """Fit the weights of the profile, and of candidates that are not in it."""
        texts = {each.preference.text for each in known.profile}
        preferences = [*known.profile, *(Kept(each, 0.0) for each in candidates if each.text not in texts)]
        newest = [*known.events.items()][-round(_HORIZON * self._config.half_life) :]
        observations = [_observation(event) for _, event in newest]
        start = [_start(each) for each in preferences]
        found = fit([key_of(each.preference.text) for each in preferences], observations, start, self._config)
        return _Learned(preferences, len(known.profile), dict(newest), found)


def _start(kept: Kept) -> float:
    """The weight that the user has stated; what was only learned starts at 0."""
    return min(1.0, max(-1.0, kept.stated)) if kept.preference.source == "stated" else 0.0


def _event(kind: FeedbackKind, texts: Sequence[str], evidence: Sequence[float]) -> FeedbackEvent:
    told = {key_of(text): value for text, value in zip(texts, evidence, strict=True)}
    return FeedbackEvent(time.time_ns(), kind, told)


def _difference(better: Sequence[float], worse: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(better, worse, strict=True)]


def _observation(event: FeedbackEvent) -> Observation:
    return Observation(event.evidence, is_comparison=event.kind == "comparison", is_positive=event.kind != "disliked")


def _explanation(learned: _Learned) -> Explanation:
    found, texts = learned.fit, [each.preference.text for each in learned.preferences]
    reports = [
        WeightReport(kept.preference, float(weight), float(start), float(std_error))
        for kept, weight, start, std_error in zip(
            learned.preferences, found.weights, found.start, found.std_errors, strict=True
        )
    ]
    if not learned.events:  # nothing has been fitted, nor scaled
        now = [each.preference.weight for each in reports]
        reports = [replace(each, fitted_weight=w, start=w) for each, w in zip(reports, now, strict=True)]
    return Explanation(
        weights=reports,
        feedback=[
            FeedbackEffect(
                feedback_id,
                datetime.fromtimestamp(event.at_ns / 1e9, UTC),
                event.kind,
                dict(zip(texts, map(float, effects), strict=True)),
            )
            for (feedback_id, event), effects in zip(learned.events.items(), found.effects, strict=True)
        ],
        confidence=found.confidence,
    )


def _proposals(learned: _Learned) -> list[Preference]:
    found = learned.fit
    candidates = range(learned.num_known, len(learned.preferences))
    sure = [i for i in candidates if abs(found.weights[i]) > _MIN_Z * found.std_errors[i]]
    sure.sort(key=lambda i: abs(found.weights[i]) / found.std_errors[i], reverse=True)
    return [replace(learned.preferences[i].preference, weight=float(found.weights[i])) for i in sure]


def _text(response: str | AIMessage) -> str:
    return response if isinstance(response, str) else response.text
