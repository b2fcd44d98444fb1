"""LangChain messages, tools and a user's preferences, rendered to prompts by the model's own chat template."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import jinja2
from langchain_core.messages import BaseMessage
from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import ChatTemplateError, MessageError
from langchain_amulet.preferences import DEFAULT_WORDING, PREFERENCES_SLOT
from langchain_amulet.prompts.conversation import (
    Turn,
    append,
    fold_system_into_user,
    one_call_per_turn,
    to_conversation,
    without_tools,
)
from langchain_amulet.structured.tool_formats import GENERIC, OTHER, TOOL_PROMPT, ToolFormat, detect

_SYSTEM_PROBE = "AMULET-SYSTEM-PROBE"
_USER_PROBE = "AMULET-USER-PROBE"
_ASSISTANT_PROBE = "AMULET-ASSISTANT-PROBE"
_TOOL_PROBE = "amulet_tool_probe"
_PROBE_ID = "AmuletId1"
_MIN_MARKER = 3  # characters


class PromptRenderer:
    """Renders conversations, with and without preferences, to the token ids of a prompt.

    The preference ends the system message, after a blank line. Without a system message from the caller, it follows the
    template's own default system text, which both streams keep; without a system role, it ends the first user turn.
    Tools go where the template has a place for them, else into the system message, before the preference.

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

    def render(
        self,
        messages: Sequence[BaseMessage],
        preferences: Sequence[str] = (),
        *,
        tools: Sequence[dict[str, Any]] = (),
        instructions: str = "",
        wording: str = DEFAULT_WORDING,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of one stream's prompt, the beginning of the answer's turn included.

        Args:
            messages: The conversation.
            preferences: Texts that this stream is prompted with; none for the base stream. Control tokens in them, and
                what the template writes between turns, are removed, so that a stored preference cannot forge a turn.
            tools: Tools that the answer may call, as OpenAI writes them.
            instructions: What all streams are told besides, in the system message.
            wording: What a stream with preferences is told; `{preferences}` stands for their texts, one per line.
            template_kwargs: More arguments of the chat template.

        Raises:
            MessageError: The conversation is empty, holds something other than text, or the template refuses it.
        """
        conversation = to_conversation(messages)
        if not self.tool_format.is_native:
            conversation = without_tools(conversation, self.tool_format)
            instructions = "\n\n".join(filter(None, (_tool_prompt(tools), instructions)))
        if not self._has_system_role:
            conversation = fold_system_into_user(conversation)
        preference = "\n".join(filter(None, map(self._sanitise, preferences)))
        if preference:
            preference = wording.replace(PREFERENCES_SLOT, preference)
        for text in filter(None, (instructions, preference)):
            conversation = self._with_system_text(conversation, text)
        arguments = dict(template_kwargs or {})
        if tools and self.tool_format.is_native:
            arguments["tools"] = list(tools)
        return cast(
            "list[int]", self._tokenizer(self._write(conversation, arguments), add_special_tokens=False).input_ids
        )

    def _write(self, conversation: list[Turn], arguments: Mapping[str, Any]) -> str:
        """The prompt as text."""
        try:
            text = self._write_calls(conversation, arguments)
            first = conversation[0]
            if first["role"] == "system" and first["content"].strip() not in text:
                # Mistral's template leaves the system text out after tool results.
                text = self._write_calls(fold_system_into_user(conversation), arguments)
        except (jinja2.TemplateError, TypeError) as error:
            msg = f"The model's chat template refuses these messages: {error}"
            raise MessageError(msg) from error
        return text

    def _write_calls(self, conversation: list[Turn], arguments: Mapping[str, Any]) -> str:
        try:
            return self._render_text(conversation, add_generation_prompt=True, **arguments)
        except jinja2.TemplateError:
            spread = one_call_per_turn(conversation)
            if spread == conversation:
                raise
            return self._render_text(spread, add_generation_prompt=True, **arguments)

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls, as its template tells; the generic one if it knows no tools."""
        function = {"name": _TOOL_PROBE, "arguments": {"probe": "x"}}
        call = {"type": "function", "id": _PROBE_ID, "function": function}
        parameters = {"type": "object", "properties": {"probe": {"type": "string", "description": "a probe"}}}
        tool = {"name": _TOOL_PROBE, "description": "a probe", "parameters": {**parameters, "required": ["probe"]}}
        user = {"role": "user", "content": _USER_PROBE}
        try:
            listed = self._render_text([user], tools=[{"type": "function", "function": tool}])
            called = self._render_text([user, {"role": "assistant", "content": "", "tool_calls": [call]}])
        except Exception:  # noqa: BLE001 - templates fail in all ways where they know no tools
            return GENERIC
        if _TOOL_PROBE not in listed or _TOOL_PROBE not in called:
            return GENERIC
        known = detect(called.rpartition(_USER_PROBE)[2], _TOOL_PROBE)
        return known or (OTHER if self._tokenizer.response_template else GENERIC)

    def _with_system_text(self, conversation: list[Turn], text: str) -> list[Turn]:
        if not self._has_system_role:
            first_user = next((i for i, turn in enumerate(conversation) if turn["role"] == "user"), None)
            if first_user is None:
                return [{"role": "user", "content": text}, *conversation]
            return [append(turn, text) if i == first_user else turn for i, turn in enumerate(conversation)]
        if conversation[0]["role"] == "system":
            return [append(conversation[0], text), *conversation[1:]]
        return [append({"role": "system", "content": self._default_system_text}, text), *conversation]

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
        return self._render_text([*system, {"role": "user", "content": _USER_PROBE}], add_generation_prompt=True)

    def _render_text(self, conversation: list[Turn], **kwargs: Any) -> str:
        return cast("str", self._tokenizer.apply_chat_template(conversation, tokenize=False, **kwargs))

    def _sanitise(self, text: str) -> str:
        """Remove control tokens, also those that removing others would put together."""
        while (cleaned := self._control_tokens.sub("", text)) != text:
            text = cleaned
        return text.strip()

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        added = (token.content for token in self._tokenizer.added_tokens_decoder.values())
        forbidden = {*(token for token in added if not token.isspace()), *self._turn_markers}
        return re.compile("|".join(map(re.escape, sorted(forbidden, key=len, reverse=True))) or "(?!)")

    @cached_property
    def _turn_markers(self) -> set[str]:
        """What the template writes between turns; not all templates do it by control tokens."""
        system, user = {"role": "system", "content": _SYSTEM_PROBE}, {"role": "user", "content": _USER_PROBE}
        turns = [user, {"role": "assistant", "content": _ASSISTANT_PROBE}, user]
        markers: set[str] = set()
        for conversation in ([system, *turns], turns, [system, user], [user]):
            try:
                text = self._render_text(conversation, add_generation_prompt=True)
            except jinja2.TemplateError:  # not every template knows every role
                continue
            before, *between = re.split(f"{_SYSTEM_PROBE}|{_USER_PROBE}|{_ASSISTANT_PROBE}", text)
            # Words alone, such as a role's name, are no markers; nor are words with a sign before the first turn.
            markers |= {each for each in " ".join(between).split() if not each.isalnum()}
            markers |= {each for each in before.split() if not (each[0].isalnum() or each[-1].isalnum())}
        return {each for each in markers if len(each) >= _MIN_MARKER}


def _tool_prompt(tools: Sequence[dict[str, Any]]) -> str:
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return TOOL_PROMPT.format(tools=described) if tools else ""
