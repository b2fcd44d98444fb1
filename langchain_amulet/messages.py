"""LangChain messages and a user's preferences, rendered to prompts by the model's own chat template."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import jinja2
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    merge_message_runs,
)
from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import ChatTemplateError, MessageError

_ROLES = ((HumanMessage, "user"), (AIMessage, "assistant"), (SystemMessage, "system"), (ToolMessage, "tool"))
_SYSTEM_PROBE = "AMULET-SYSTEM-PROBE"
_USER_PROBE = "AMULET-USER-PROBE"


class PromptRenderer:
    """Renders conversations, with and without preferences, to the token ids of a prompt.

    The preference ends the system message, after a blank line. Without a system message from the caller, it follows the
    template's own default system text, which both streams keep; without a system role, it ends the first user turn.

    Args:
        tokenizer: A fast tokenizer with a chat template.

    Raises:
        ChatTemplateError: The tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if not tokenizer.chat_template:
            msg = (
                "The tokenizer has no chat template, so messages cannot be turned into a prompt. Use an "
                "instruction-tuned model, or pass a tokenizer whose chat_template you have set."
            )
            raise ChatTemplateError(msg)
        self._tokenizer = tokenizer

    def render(self, messages: Sequence[BaseMessage], preferences: Sequence[str] = ()) -> list[int]:
        """The token ids of one stream's prompt, the beginning of the answer's turn included.

        Args:
            messages: The conversation.
            preferences: Texts that this stream is prompted with; none for the base stream. Control tokens in them are
                removed, so that a stored preference cannot forge a turn.

        Raises:
            MessageError: The conversation is empty, holds something other than text, or the template refuses it.
        """
        conversation = _to_conversation(messages)
        if not self._has_system_role:
            conversation = _fold_system_into_user(conversation)
        preference = "\n".join(filter(None, map(self._sanitise, preferences)))
        if preference:
            conversation = self._with_preference(conversation, preference)
        try:
            ids = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        except (jinja2.TemplateError, TypeError) as error:
            msg = f"The model's chat template refuses these messages: {error}"
            raise MessageError(msg) from error
        return cast("list[int]", ids)

    def _with_preference(self, conversation: list[dict[str, Any]], preference: str) -> list[dict[str, Any]]:
        if not self._has_system_role:
            first_user = next((i for i, turn in enumerate(conversation) if turn["role"] == "user"), None)
            if first_user is None:
                return [{"role": "user", "content": preference}, *conversation]
            return [_append(turn, preference) if i == first_user else turn for i, turn in enumerate(conversation)]
        if conversation[0]["role"] == "system":
            return [_append(conversation[0], preference), *conversation[1:]]
        return [_append({"role": "system", "content": self._default_system_text}, preference), *conversation]

    @cached_property
    def _system_slot(self) -> tuple[str, str] | None:
        """What the template writes before and after a system text, up to the answer; `None` if it takes none."""
        try:
            before, found, after = self._render_probe(with_system=True).partition(_SYSTEM_PROBE)
        except jinja2.TemplateError:
            return None
        return (before, after) if found else None

    @property
    def _has_system_role(self) -> bool:
        return self._system_slot is not None

    @cached_property
    def _default_system_text(self) -> str:
        """The system text that the template writes where the caller gives none; often empty."""
        assert self._system_slot is not None, "asked only where there is a system role"
        before, after = self._system_slot
        rendered = self._render_probe(with_system=False)
        has_slot = rendered.startswith(before) and rendered.endswith(after)
        # Where the template writes no system part at all, before and after overlap or do not fit.
        return rendered[len(before) : len(rendered) - len(after)] if has_slot else ""

    def _render_probe(self, *, with_system: bool) -> str:
        system = [{"role": "system", "content": _SYSTEM_PROBE}] if with_system else []
        conversation = [*system, {"role": "user", "content": _USER_PROBE}]
        return cast(
            "str", self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        )

    def _sanitise(self, text: str) -> str:
        """Remove control tokens, also those that removing others would put together."""
        while (cleaned := self._control_tokens.sub("", text)) != text:
            text = cleaned
        return text.strip()

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        added = (token.content for token in self._tokenizer.added_tokens_decoder.values())
        control = sorted((token for token in added if not token.isspace()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, control)) or "(?!)")


def _to_conversation(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    if not messages:
        msg = "There are no messages to answer. Pass at least one HumanMessage."
        raise MessageError(msg)
    return [_to_turn(message) for message in merge_message_runs(messages)]


def _to_turn(message: BaseMessage) -> dict[str, Any]:
    # A ChatMessage says its role itself.
    role = next((role for kind, role in _ROLES if isinstance(message, kind)), getattr(message, "role", None))
    if role is None:
        msg = (
            f"A {type(message).__name__} has no role in a chat template. Use system, human, AI, tool or chat messages."
        )
        raise MessageError(msg)
    turn: dict[str, Any] = {"role": role, "content": _text_of(message)}
    if isinstance(message, AIMessage) and message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        turn |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return turn


def _text_of(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(filter(None, map(_text_of_block, message.content)))


def _text_of_block(block: str | dict[str, Any]) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    if kind == "text":
        return str(block["text"])
    if kind in {"tool_use", "tool_call", "reasoning"}:  # carried by tool_calls, or not shown to the model again
        return ""
    msg = f"This model reads text only; a message holds a block of type {kind!r}. Remove it, or describe it in words."
    raise MessageError(msg)


def _append(turn: dict[str, Any], text: str) -> dict[str, Any]:
    return {**turn, "content": "\n\n".join(filter(None, (turn["content"], text)))}


def _fold_system_into_user(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without a system role, the system text opens the user turn that follows it."""
    if conversation[0]["role"] != "system":
        return conversation
    system, *rest = conversation
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{**rest[0], "content": "\n\n".join(filter(None, (system["content"], rest[0]["content"])))}, *rest[1:]]
