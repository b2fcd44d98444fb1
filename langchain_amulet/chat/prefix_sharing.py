"""Decides which calls may reuse the keys and values of a call's prompts, part by part.

What a caller sends may be secret, and whether a prompt is read or reused can be measured. So a part of a prompt is
reused only by calls of the same user, or of the users that the setting `prefix_sharing` names. Answers, and
conversations from their first answer on, are never shared with other users. What depends on preferences is reused only
by calls of the same user with the same digest of preferences.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from langchain_amulet.chat.settings import PrefixSharing
from langchain_amulet.engine.params import PrefixKeys
from langchain_amulet.engine.tokens import common_prefix_length
from langchain_amulet.exceptions import AmuletError
from langchain_amulet.personalization.caller import Caller
from langchain_amulet.personalization.resolved import ResolvedPreferences

Render = Callable[[Sequence[BaseMessage]], list[int]]
"""Renders messages to the token ids of a prompt without preferences."""

_EVERYBODY = ("all",)
_ANY_QUESTIONS = ("0", "A")  # two that have no first character in common


def prefix_keys(
    prompts: Sequence[Sequence[int]],
    messages: Sequence[BaseMessage],
    resolved: ResolvedPreferences,
    render: Render,
    sharing: PrefixSharing,
    *,
    is_personal: bool,
) -> list[PrefixKeys]:
    """Return the prefix keys of each prompt of a call.

    Args:
        prompts: The token ids of each stream.
        messages: The conversation.
        resolved: The preferences of the call, and who makes it.
        render: Renders the beginning of the conversation, with the tools and settings of the call.
        sharing: Which calls may reuse the prompts.
        is_personal: Whether a prompt contains preferences.
    """
    caller = resolved.caller or Caller()
    user: tuple[Hashable, ...] = ("user", caller.user_id)
    group = user if caller.group is None else ("group", caller.group)
    heads: list[tuple[list[int], Hashable]] = []
    if sharing == "system":
        heads.append((_system_head(messages, render), _EVERYBODY))
    if is_personal or sharing in ("group", "all"):
        turn_key = {"group": group, "all": _EVERYBODY}.get(sharing, user)
        heads.append((_first_turn(messages, render), turn_key))
    rest = (*user, resolved.digest) if is_personal else user
    return [PrefixKeys(_parts(prompt, heads), rest, is_private=is_personal) for prompt in prompts]


def _parts(prompt: Sequence[int], heads: Sequence[tuple[list[int], Hashable]]) -> tuple[tuple[int, Hashable], ...]:
    """Return how far a prompt agrees with each head: so far it depends on nothing else."""
    ends = itertools.accumulate((_common(prompt, head) for head, _ in heads), max)
    return tuple(zip(ends, (key for _, key in heads), strict=True))


def _system_head(messages: Sequence[BaseMessage], render: Render) -> list[int]:
    """Return the tokens of a prompt that depend on the leading system messages and the tools only."""
    system = list(itertools.takewhile(lambda message: isinstance(message, SystemMessage), messages))
    first, second = (_rendered([*system, HumanMessage(question)], render) for question in _ANY_QUESTIONS)
    return first[: _common(first, second)]


def _first_turn(messages: Sequence[BaseMessage], render: Render) -> list[int]:
    """Return the prompt of the messages before the first answer.

    Messages of other kinds end it too: a `ChatMessage` may be an answer, under whatever role.
    """
    asked = itertools.takewhile(lambda message: isinstance(message, SystemMessage | HumanMessage), messages)
    return _rendered(list(asked), render)


def _rendered(messages: Sequence[BaseMessage], render: Render) -> list[int]:
    try:
        return render(messages) if messages else []
    except AmuletError:  # the template does not accept this beginning alone
        return []


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return common_prefix_length(np.array(a, dtype=np.int64), np.array(b, dtype=np.int64))
