"""`FeedbackLearner`: learns preference weights from feedback, without training the model."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.exceptions import InvalidParameterError, StoreTypeError
from langchain_amulet.feedback.bradley_terry import LearningConfig, Observation, WeightFit, fit_weights
from langchain_amulet.memory.items import FeedbackEvent, FeedbackKind, StoredPreference, key_of, new_change_key
from langchain_amulet.memory.lengths import check_length
from langchain_amulet.memory.operations import read_feedback, write_feedback, write_learned_weights
from langchain_amulet.memory.preference_memory import PreferenceMemory, access_to
from langchain_amulet.memory.sources import FunctionStore
from langchain_amulet.memory.store_ops import StoreOperation
from langchain_amulet.preferences import Preference

_HORIZON = 20  # half-lives; older feedback has a weight below a millionth and is deleted
_MIN_Z = 1.64  # a candidate is proposed if its weight is this many standard errors from 0: 95 %, one-sided


@dataclass(frozen=True, slots=True)
class WeightReport:
    """One preference, and how its weight was fitted."""

    preference: Preference
    """The preference with its effective weight."""
    fitted_weight: float
    """The weight fitted to the feedback. It is the effective weight unless the user has stated another weight since."""
    start: float
    """The part of the fitted weight that comes from the stated weight and not from feedback, on the same scale."""
    std_error: float
    """The standard error of the fitted weight."""


@dataclass(frozen=True, slots=True)
class FeedbackEffect:
    """How one piece of feedback moved the fitted weights."""

    feedback_id: str
    """The id that `record` or `record_comparison` returned."""
    at: datetime
    """The time of the feedback, in UTC."""
    kind: FeedbackKind
    effects: dict[str, float] = field(repr=False)
    """By text of a preference, the change of its fitted weight."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a user's weights are what they are.

    Each fitted weight is the sum of its start and of the effects of all pieces of feedback. All are scaled so that the
    largest absolute weight equals the confidence.
    """

    weights: list[WeightReport]
    """In the order in which the memory recalls the preferences."""
    feedback: list[FeedbackEffect]
    """Oldest first."""
    confidence: float
    """From 0 to 1: how certain the direction of the fitted weights is."""


class _UserData(NamedTuple):
    """A user's preferences and feedback, as read from the memory."""

    profile: list[StoredPreference]
    events: dict[str, FeedbackEvent]
    """By feedback id, oldest first."""


class _FittedProfile(NamedTuple):
    """A user's preferences with the weights fitted to their feedback."""

    preferences: list[StoredPreference]
    """The profile, followed by candidates."""
    num_remembered: int
    """The length of the profile, without candidates."""
    events: dict[str, FeedbackEvent]
    """The feedback used, by id, oldest first."""
    fit: WeightFit


class FeedbackLearner:
    """Fits the weights of users' preferences to their feedback.

    For every response that a user judges, the model computes the evidence for each of the user's preferences: the mean
    over the response's tokens of log p(token | prompt with the preference) − log p(token | prompt). A regularised
    Bradley-Terry model is fitted to the evidence and the judgements. The memory stores the fitted weights, and the next
    answer uses them. Of the judged texts, only the evidence is stored. Every method has an async twin with the prefix
    `a`.

    Args:
        llm: The model that computes the evidence.
        memory: The memory that holds the preferences; feedback is stored in the same store.
        candidates: Texts of preferences that users may have without having stated them, for `propose`.
        config: How fast and how far weights follow feedback.

    Raises:
        StoreTypeError: The memory is read-only.
        InvalidParameterError: A candidate is longer than a memory accepts, or `candidates` is one text.

    Example:
        >>> memory.remember("bob", "Answer as concisely as possible.")
        Preference(weight=1.0)
        >>> learner = FeedbackLearner(llm, memory)
        >>> feedback_id = learner.record("bob", "How do I sleep better?", "Go to bed early.", liked=True)
        >>> [effect.feedback_id == feedback_id for effect in learner.explain("bob").feedback]
        [True]
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
            msg = "This memory is read-only. Pass FeedbackLearner a memory over a store that can be written."
            raise StoreTypeError(msg)
        self._llm = llm
        self._memory = memory
        self._access = access_to(memory)
        if isinstance(candidates, str):
            msg = "candidates must be a list of texts, got one text. Write candidates=[text]."
            raise InvalidParameterError(msg)
        for text in candidates:
            check_length(text)
        self._candidates = [Preference(text, 0.0, "learned") for text in dict.fromkeys(candidates)]
        self._config = config or LearningConfig()

    def record(self, user_id: str, messages: LanguageModelInput, response: str | AIMessage, *, liked: bool) -> str:
        """Learn from a response that a user liked or disliked.

        Args:
            user_id: The user who judged the response.
            messages: The conversation that the response answers.
            response: The answer.
            liked: Whether the user liked it.

        Returns:
            The id of this feedback in `explain`.

        Raises:
            InvalidParameterError: The response is empty, or neither a string nor an `AIMessage`.
            ContextLengthError: Messages and response are longer than the model's context.
            UserIdError: The user id is empty or not a string.
            StoredPreferenceError: An item of the store is neither a preference nor feedback.
            StoreTimeoutError: The store did not answer within the memory's `read_timeout`.
            StoreError: The store has raised an error.
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
        """Learn from two responses to the same messages, of which the user prefers one.

        Args:
            user_id: The user who judged the responses.
            messages: The conversation that both responses answer.
            better: The response that the user prefers.
            worse: The other response.

        Returns:
            The id of this feedback in `explain`.

        Raises:
            InvalidParameterError: A response is empty, or neither a string nor an `AIMessage`.
            ContextLengthError: Messages and a response are longer than the model's context.
            UserIdError: The user id is empty or not a string.
            StoredPreferenceError: An item of the store is neither a preference nor feedback.
            StoreTimeoutError: The store did not answer within the memory's `read_timeout`.
            StoreError: The store has raised an error.
        """
        texts = self._texts(self._memory.recall(user_id))
        pair = [self._llm.evidence(messages, _text(response), texts) if texts else [] for response in (better, worse)]
        return self._learn(user_id, _event("comparison", texts, _difference(*pair)))

    async def arecord_comparison(
        self, user_id: str, messages: LanguageModelInput, better: str | AIMessage, worse: str | AIMessage
    ) -> str:
        """Async `record_comparison`."""
        texts = self._texts(await self._memory.arecall(user_id))
        pair = [
            await self._llm.aevidence(messages, _text(response), texts) if texts else [] for response in (better, worse)
        ]
        return await self._alearn(user_id, _event("comparison", texts, _difference(*pair)))

    def explain(self, user_id: str) -> Explanation:
        """Explain a user's weights: the effect of each piece of feedback on each weight, and the confidence.

        Raises:
            StoredPreferenceError: An item of the store is neither a preference nor feedback.
            StoreTimeoutError: The store did not answer within the memory's `read_timeout`.
            StoreError: The store has raised an error.
            UserIdError: The user id is empty or not a string.
        """
        return _explanation(self._fit(self._access.read(self._read_user_data(user_id))))

    async def aexplain(self, user_id: str) -> Explanation:
        """Async `explain`."""
        data = await self._access.aread(self._read_user_data(user_id))
        return _explanation(await asyncio.to_thread(self._fit, data))

    def propose(self, user_id: str) -> list[Preference]:
        """Return the candidates whose fitted weights differ significantly from 0, the most significant first.

        A negative weight means that the user dislikes what the candidate asks for. Nothing is stored; call
        `memory.remember(user_id, proposal)` to accept a proposal.

        Raises:
            StoredPreferenceError: An item of the store is neither a preference nor feedback.
            StoreTimeoutError: The store did not answer within the memory's `read_timeout`.
            StoreError: The store has raised an error.
            UserIdError: The user id is empty or not a string.
        """
        return _proposals(self._fit(self._access.read(self._read_user_data(user_id)), self._candidates))

    async def apropose(self, user_id: str) -> list[Preference]:
        """Async `propose`."""
        data = await self._access.aread(self._read_user_data(user_id))
        return _proposals(await asyncio.to_thread(self._fit, data, self._candidates))

    def _texts(self, profile: Sequence[Preference]) -> list[str]:
        """Return the texts to compute evidence for: those of the profile and of all candidates."""
        return [*dict.fromkeys(p.text for p in (*profile, *self._candidates) if p.text.strip())]

    def _learn(self, user_id: str, event: FeedbackEvent) -> str:
        """Store one piece of feedback, fit the weights again and store them."""
        feedback_id, data = self._access.write(user_id, self._write_event(user_id, event))
        self._access.write(user_id, self._write_weights(user_id, data, self._fit(data)))
        return feedback_id

    async def _alearn(self, user_id: str, event: FeedbackEvent) -> str:
        feedback_id, data = await self._access.awrite(user_id, self._write_event(user_id, event))
        fitted = await asyncio.to_thread(self._fit, data)
        await self._access.awrite(user_id, self._write_weights(user_id, data, fitted))
        return feedback_id

    def _write_event(self, user_id: str, event: FeedbackEvent) -> StoreOperation[tuple[str, _UserData]]:
        """Write feedback without evidence for preferences that were forgotten while the model computed it."""
        profile_now = yield from self._access.recall_operation(user_id)
        keys_now = {key_of(text) for text in self._texts([stored.preference for stored in profile_now])}
        evidence = {key: gain for key, gain in event.evidence.items() if key in keys_now}
        if event.evidence and not evidence:  # forgetting deletes such feedback too
            return new_change_key(), (yield from self._read_user_data(user_id))
        feedback_id = yield from write_feedback(user_id, replace(event, evidence=evidence))
        return feedback_id, (yield from self._read_user_data(user_id))

    def _read_user_data(self, user_id: str) -> StoreOperation[_UserData]:
        profile = yield from self._access.recall_operation(user_id)
        events = yield from read_feedback(user_id)
        return _UserData([stored for stored in profile if stored.preference.text.strip()], events)

    def _write_weights(self, user_id: str, data: _UserData, fitted: _FittedProfile) -> StoreOperation[None]:
        profile_now = yield from self._access.recall_operation(user_id)
        texts_now = {stored.preference.text for stored in profile_now}
        # Preferences that were deleted while the weights were fitted are left out.
        weights = {
            stored.preference.text: (stored.stated_weight, float(weight))
            for stored, weight in zip(data.profile, fitted.fit.weights, strict=True)
            if stored.preference.text in texts_now
        }
        outdated = data.events.keys() - fitted.events.keys()
        if weights or (outdated and profile_now):
            yield from write_learned_weights(user_id, weights, sorted(outdated))

    def _fit(self, data: _UserData, candidates: Sequence[Preference] = ()) -> _FittedProfile:
        """Fit the weights of the profile, and of the candidates that are not in it."""
        texts = {stored.preference.text for stored in data.profile}
        others = [StoredPreference(candidate, 0.0) for candidate in candidates if candidate.text not in texts]
        preferences = [*data.profile, *others]
        newest = [*data.events.items()][-round(_HORIZON * self._config.half_life) :]
        fitted = fit_weights(
            [key_of(stored.preference.text) for stored in preferences],
            [_observation(event) for _, event in newest],
            [_start(stored) for stored in preferences],
            self._config,
        )
        return _FittedProfile(preferences, len(data.profile), dict(newest), fitted)


def _start(stored: StoredPreference) -> float:
    """Return the stated weight, clipped to [-1, 1]; 0 for a preference that was only learned."""
    return min(1.0, max(-1.0, stored.stated_weight)) if stored.preference.source == "stated" else 0.0


def _event(kind: FeedbackKind, texts: Sequence[str], evidence: Sequence[float]) -> FeedbackEvent:
    evidence_by_key = {key_of(text): value for text, value in zip(texts, evidence, strict=True)}
    return FeedbackEvent(time.time_ns(), kind, evidence_by_key)


def _difference(better: Sequence[float], worse: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(better, worse, strict=True)]


def _observation(event: FeedbackEvent) -> Observation:
    return Observation(event.evidence, is_comparison=event.kind == "comparison", is_positive=event.kind != "disliked")


def _explanation(fitted: _FittedProfile) -> Explanation:
    fit, texts = fitted.fit, [stored.preference.text for stored in fitted.preferences]
    reports = [
        WeightReport(stored.preference, float(weight), float(start), float(std_error))
        for stored, weight, start, std_error in zip(
            fitted.preferences, fit.weights, fit.start, fit.std_errors, strict=True
        )
    ]
    if not fitted.events:  # without feedback the effective weights are the stated ones, which are not scaled
        reports = [replace(r, fitted_weight=r.preference.weight, start=r.preference.weight) for r in reports]
    return Explanation(
        weights=reports,
        feedback=[
            FeedbackEffect(
                feedback_id,
                datetime.fromtimestamp(event.at_ns / 1e9, UTC),
                event.kind,
                dict(zip(texts, map(float, effects), strict=True)),
            )
            for (feedback_id, event), effects in zip(fitted.events.items(), fit.effects, strict=True)
        ],
        confidence=fit.confidence,
    )


def _proposals(fitted: _FittedProfile) -> list[Preference]:
    z = np.abs(fitted.fit.weights) / fitted.fit.std_errors
    candidates = range(fitted.num_remembered, len(fitted.preferences))
    significant = sorted((i for i in candidates if z[i] > _MIN_Z), key=lambda i: z[i], reverse=True)
    return [replace(fitted.preferences[i].preference, weight=float(fitted.fit.weights[i])) for i in significant]


def _text(response: str | AIMessage) -> str:
    if isinstance(response, str):
        return response
    if not isinstance(response, AIMessage):
        msg = (
            f"A response must be a string or an AIMessage, got {type(response).__name__}. Pass what the model answered."
        )
        raise InvalidParameterError(msg)
    return response.text
