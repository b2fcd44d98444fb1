"""Lets the model write opposites of a user's stored preferences, and checks them on probe answers before they are kept.

The texts travel as in calls with preferences, past LangChain: no callback, trace or response cache sees them, and no
other request reuses keys and values that were computed from them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langchain_amulet.answers.answer_stream import AnswerStream
from langchain_amulet.chat.call import Call, prepare_call, render_stream
from langchain_amulet.chat.inspection import mean_gains, score_response
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.engine.params import PrefixKeys, Request
from langchain_amulet.engine.tokens import Tokens, common_prefix_length
from langchain_amulet.exceptions import InvalidParameterError, MessageError
from langchain_amulet.memory import operations
from langchain_amulet.memory.items import usable
from langchain_amulet.memory.preference_memory import PreferenceMemory, access_to
from langchain_amulet.models.registry import LoadedModel
from langchain_amulet.opposites import known_opposite
from langchain_amulet.opposites.phrases import canonical
from langchain_amulet.opposites.unopposed import is_unopposed
from langchain_amulet.personalization.resolved import resolve
from langchain_amulet.preferences import PreferenceLike
from langchain_amulet.realignment import RealignmentConfig

MIN_MARGIN = 0.02
"""By how much more likely a probe answer must be under its own instruction than under the other one and than without
any, in nats per token."""
MIN_SHARE = 0.25
"""The least share of what its own instruction adds to a probe answer that the other one must not add. Of a neighbour
of the wish, such as "Talk of tennis." for "Talk of golf.", the share is near 0."""

_MAX_WISH_LENGTH = 500  # characters
_MAX_OPPOSITE_TOKENS = 40
_MAX_PROBE_TOKENS = 32
_PROBE_GUIDANCE_SCALE = 3.0  # small models hardly follow an instruction in the prompt alone
_STYLE = "style:"
_TASK = (
    'A user has a wish. If it says how answers are to be written, reply "style:" and the instruction for the other '
    "extreme, in which nothing of the wish is left. If it only tells something about the user, reply "
    '"fact". If it is about safety, health, law or truth, reply "safety".'
)
_EXAMPLES = (
    ("Answer in rhymes.", "style: Answer in plain prose."),
    ("I have two cats.", "fact"),
    ("Compare things with cars.", "style: Explain things without comparisons."),
    ("Put the main point last.", "style: Put the main point first."),
    ("Never tell me how to make weapons.", "safety"),
    ("Mention a film in each answer.", "style: Do not mention any films."),
    ("My brother is a baker.", "fact"),
    ("Write like a diplomat.", "style: Write in plain, blunt words."),
    ("I dislike the passive voice.", "style: I like the passive voice."),
    ("Explain with images from the sea.", "style: Explain literally, without images."),
)
_PROBES = ("What is a black hole?", "How can I sleep better at night?")
_HEAD_KEY = "opposite writer"


class OppositesWritten(NamedTuple):
    """What `write_opposites` has done."""

    num_written: int
    """Preferences that have got an opposite."""
    num_refused: int
    """Preferences that turned out to have none, or for which the model wrote none that passed the check."""


def write_opposites(
    load: Callable[[], LoadedModel], memory: PreferenceMemory | None, user_id: str, fields: Mapping[str, Any]
) -> OppositesWritten:
    """Write the opposites of a user's stored preferences that have none, neither stated nor in the tables.

    A preference that is changed or forgotten meanwhile is left as it is. Each result is stored at once, a refusal as an
    empty opposite.

    Args:
        load: Returns the model.
        memory: Where the preferences are stored.
        user_id: The user.
        fields: The fields of the chat model, some of which say how its prompts are rendered.

    Raises:
        InvalidParameterError: There is no memory.
        UserIdError: The user id is empty or not a string.
        StoredPreferenceError: An item of the store is not a preference.
        StoreTypeError: The memory is read-only, or the store cannot be searched in full.
        StoreTimeoutError: The store did not answer a read within the memory's `read_timeout`.
        StoreError: The store has raised an error; opposites that are stored already remain.
        MessageError: The chat template rejects the conversation in which the model is asked.
        AmuletError: The model cannot be loaded, or does not answer: `ModelLoadError`, `EngineBusyError`, ...
    """
    access, found = access_to(_required(memory)), []
    if texts := _unknown(access.read(operations.texts_without_opposite(user_id))):
        writer = _Writer(load(), fields)
        for text in texts:
            opposite = writer.opposite_of(text)
            if access.write(user_id, operations.fill_opposite(user_id, text, opposite)):
                found.append(opposite)
    return _counted(found)


async def awrite_opposites(
    load: Callable[[], LoadedModel], memory: PreferenceMemory | None, user_id: str, fields: Mapping[str, Any]
) -> OppositesWritten:
    """Async `write_opposites`."""
    access, found = access_to(_required(memory)), []
    if texts := _unknown(await access.aread(operations.texts_without_opposite(user_id))):
        writer = await asyncio.to_thread(lambda: _Writer(load(), fields))
        for text in texts:
            opposite = await asyncio.to_thread(writer.opposite_of, text)
            if await access.awrite(user_id, operations.fill_opposite(user_id, text, opposite)):
                found.append(opposite)
    return _counted(found)


def _required(memory: PreferenceMemory | None) -> PreferenceMemory:
    if memory is None:
        msg = "This model has no memory whose preferences could get opposites. Set ChatAmulet(memory=...)."
        raise InvalidParameterError(msg)
    return memory


def _unknown(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if known_opposite(text) is None]


def _counted(opposites: Sequence[str]) -> OppositesWritten:
    num_written = sum(map(bool, opposites))
    return OppositesWritten(num_written, len(opposites) - num_written)


class _Writer:
    """Asks one model greedily, in the form of its chat model's calls."""

    def __init__(self, loaded: LoadedModel, fields: Mapping[str, Any]) -> None:
        self._loaded = loaded
        kept = {name: fields[name] for name in ("preference_template", "timeout")}
        greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
        without_thinking = {"enable_thinking": False, **fields["chat_template_kwargs"]}
        common = {**kept, **greedy, "chat_template_kwargs": without_thinking}
        steered = RealignmentConfig(_PROBE_GUIDANCE_SCALE, contrast="base", repeat_preference=False)
        self._writing = CallSettings.merge(common, {"max_tokens": _MAX_OPPOSITE_TOKENS, "stop": ["\n"]})
        self._probing = CallSettings.merge(common, {"max_tokens": _MAX_PROBE_TOKENS, "realignment": steered})

    def opposite_of(self, text: str) -> str:
        """Return the opposite of a preference; empty if it has none, or none that passes the check."""
        wish = self._loaded.renderer.clean(text)
        if not wish or len(wish) > _MAX_WISH_LENGTH or is_unopposed(wish):
            return ""
        opposite = self._written(wish)
        return opposite if opposite and self._separates(wish, opposite) else ""

    def _written(self, wish: str) -> str:
        """Return what the model writes as the opposite of a wish; empty if it says that there is none."""
        reply = None
        with contextlib.suppress(MessageError):  # it may quote the wish
            [reply] = self._answers([(_task(wish), None)], self._writing)
        if reply is None:
            msg = "The model's chat template rejects the conversation in which the model is asked for an opposite."
            raise MessageError(msg)
        if not reply.strip().lower().startswith(_STYLE):
            return ""
        opposite = self._loaded.renderer.clean(usable(reply.strip()[len(_STYLE) :])).strip(" \"'\u201c\u201d")
        is_same = canonical(opposite) == canonical(wish)
        return "" if is_same or len(opposite) > _MAX_WISH_LENGTH or is_unopposed(opposite) else opposite

    def _separates(self, wish: str, opposite: str) -> bool:
        """Whether answers that are steered to the one instruction are unlikely under the other, and the reverse."""
        pairs = ((wish, opposite), (opposite, wish))
        answers = self._answers([(_question(probe), own) for own, _ in pairs for probe in _PROBES], self._probing)
        if not all(answer.strip() for answer in answers):
            return False
        by_pair = (answers[: len(_PROBES)], answers[len(_PROBES) :])
        return all(self._is_of_its_own(*each) for each in zip(by_pair, pairs, strict=True))

    def _is_of_its_own(self, answers: Sequence[str], pair: tuple[str, str]) -> bool:
        """Whether the answers to the probes are more likely under the first instruction than under the second."""
        scored = [
            score_response(self._loaded, _question(probe), answer, pair, self._probing)
            for probe, answer in zip(_PROBES, answers, strict=True)
        ]
        own: float
        other: float
        own, other = torch.tensor([mean_gains(each.result()) for each in scored]).mean(dim=0).tolist()
        return own - max(other, 0.0) >= MIN_MARGIN and own - other >= MIN_SHARE * own

    def _answers(
        self, asked: Sequence[tuple[Sequence[BaseMessage], PreferenceLike]], settings: CallSettings
    ) -> list[str]:
        """Return the answers to messages with an instruction each. They are generated at once."""
        calls = [prepare_call(self._loaded, messages, resolve(like), settings) for messages, like in asked]
        streams = [call.answer(call.engine.submit(self._unshared(call))) for call in calls]
        try:
            return [_text(stream) for stream in streams]
        finally:
            for stream in streams:
                stream.generation.cancel()

    def _unshared(self, call: Call) -> Request:
        """Return a request whose keys and values no other request may reuse, except those of the task's examples."""
        prompts = [np.array(prompt, dtype=np.int64) for prompt in call.request.prompts]
        ends = [common_prefix_length(prompt, self._head) for prompt in prompts]
        keys = [PrefixKeys(((end, _HEAD_KEY),), is_private=True) for end in ends]
        return replace(call.request, prefix_keys=keys)

    @cached_property
    def _head(self) -> Tokens:
        """The tokens of the task before the wish."""
        first, second = (
            np.array(render_stream(self._loaded, _task(wish), (), self._writing), dtype=np.int64) for wish in "0A"
        )
        return first[: common_prefix_length(first, second)]


def _task(wish: str) -> list[BaseMessage]:
    turns = [turn for asked, reply in _EXAMPLES for turn in (HumanMessage(f"Wish: {asked}"), AIMessage(reply))]
    return [SystemMessage(_TASK), *turns, HumanMessage(f"Wish: {wish}")]


def _question(probe: str) -> list[BaseMessage]:
    return [HumanMessage(probe)]


def _text(stream: AnswerStream) -> str:
    chunks = [stream.push(token_id) for token_id in stream.generation]
    return "".join(chunk.text for chunk in (*chunks, *stream.finish()) if chunk)
