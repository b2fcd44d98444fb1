"""Renders messages, tools and preferences to prompts with the model's chat template."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

import jinja2
from langchain_core.messages import BaseMessage
from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import ChatTemplateError, MessageError
from langchain_amulet.preferences import DEFAULT_WORDING, PREFERENCES_SLOT
from langchain_amulet.prompts.control_tokens import ControlTokens, unused_character
from langchain_amulet.prompts.conversation import (
    Turn,
    append,
    fold_system_into_user,
    one_call_per_turn,
    to_conversation,
    without_tools,
)
from langchain_amulet.prompts.encoding import check_encodable
from langchain_amulet.prompts.inputs import Inputs, texts_of
from langchain_amulet.structured.tool_formats import GENERIC, OTHER, TOOL_PROMPT, ToolFormat, detect

_SYSTEM_PROBE = "AMULET-SYSTEM-PROBE"
_USER_PROBE = "AMULET-USER-PROBE"
_ASSISTANT_PROBE = "AMULET-ASSISTANT-PROBE"
_TOOL_PROBE = "amulet_tool_probe"
_PROBE_ID = "AmuletId1"
_MIN_MARKER_LENGTH = 3  # characters


class PromptRenderer:
    """Renders conversations to the token ids of prompts, with or without preferences.

    Preferences are appended to the system message, after a blank line. Without a system message, they are appended to
    the template's default system text. If the template has no system role, they are appended to the first user turn.
    On request, they are also appended to the last user turn.
    The template renders tools if it supports them; otherwise the system message describes them, before the preferences.

    Args:
        tokenizer: A fast tokenizer with a chat template.

    Raises:
        ChatTemplateError: The tokenizer has no chat template, or one that is not valid.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if not tokenizer.chat_template:
            msg = (
                "The tokenizer has no chat template, so messages cannot be turned into a prompt. Use an "
                "instruction-tuned model, or pass a tokenizer whose chat_template you have set."
            )
            raise ChatTemplateError(msg)
        self._tokenizer = tokenizer
        try:
            self._render_text([{"role": "user", "content": _USER_PROBE}])
        except jinja2.TemplateSyntaxError as error:
            msg = (
                f"The tokenizer's chat template has an error in line {error.lineno}: {error.message}. Set another one."
            )
            raise ChatTemplateError(msg) from error
        except Exception:  # noqa: BLE001, S110 - whether it accepts the messages of a call is seen then
            pass

    def render(
        self,
        messages: Sequence[BaseMessage],
        preferences: Sequence[str] = (),
        *,
        tools: Sequence[dict[str, Any]] = (),
        instructions: str = "",
        wording: str = DEFAULT_WORDING,
        repeat: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = True,
    ) -> list[int]:
        """Return the token ids of one stream's prompt, including the generation prompt.

        Args:
            messages: The conversation.
            preferences: Texts of this stream's preferences; empty for the base stream. Control tokens and turn
                markers are removed from them, so that a stored preference cannot forge a turn.
            tools: Tools that the answer may call, in OpenAI's format.
            instructions: Text to add to the system message of every stream.
            wording: The text to add for preferences; `{preferences}` is replaced by their texts, one per line.
            repeat: Whether the text for preferences also ends the last user turn.
            template_kwargs: Extra arguments of the chat template.
            sanitize_control_tokens: Whether control tokens in messages, tools, instructions and documents are encoded
                as the plain text that they are, so that only the template writes control tokens. In system and AI
                messages, tokens that do not end or begin turns stay as they are, such as `<think>`.

        Raises:
            MessageError: The conversation is empty, contains something other than text, or the template rejects it.
        """
        arguments = dict(template_kwargs or {})
        inputs = Inputs(to_conversation(messages), list(tools), instructions, arguments.get("documents"))
        mark = unused_character([*texts_of(inputs), wording, *preferences])
        preference = self._preference_text(preferences, wording, mark)
        write = partial(self._write_inputs, preference, preference if repeat else "", arguments)
        tokens = self._control_tokens
        if sanitize_control_tokens:
            inputs = inputs.broken(tokens, mark)
        prompt = write(inputs)
        if sanitize_control_tokens and (edged := inputs.edged(tokens, mark)) != inputs:
            # Breaks at the ends of texts are only kept if the template would complete one to a control token.
            prompt = min(prompt, write(edged), key=tokens.count)
        check_encodable(prompt)
        return tokens.encode(prompt, mark)

    def _write_inputs(self, preference: str, repeated: str, arguments: Mapping[str, Any], inputs: Inputs) -> str:
        """Render the prompt as text."""
        arguments, instructions = dict(arguments), inputs.instructions
        conversation = self._with_repeated(inputs.turns, repeated)
        if inputs.documents:
            arguments["documents"] = inputs.documents
        if not self.tool_format.is_native:
            conversation = without_tools(conversation, self.tool_format)
            instructions = "\n\n".join(filter(None, (_tool_prompt(inputs.tools), instructions)))
        elif inputs.tools:
            arguments["tools"] = inputs.tools
        if not self._has_system_role:
            conversation = fold_system_into_user(conversation)
        for text in filter(None, (instructions, preference)):
            conversation = self._with_system_text(conversation, text)
        return self._write(conversation, arguments, is_private=bool(preference))

    def clean(self, preference: str) -> str:
        """Return a preference as it is rendered: without control tokens, turn markers and whitespace around it."""
        return self._control_tokens.remove(preference)

    def _preference_text(self, preferences: Sequence[str], wording: str, mark: str) -> str:
        """Return the text to add for preferences; empty if there are none, or only control tokens."""
        cleaned = "\n".join(filter(None, map(self.clean, preferences)))
        return wording.replace(PREFERENCES_SLOT, self._control_tokens.broken(cleaned, mark)) if cleaned else ""

    def _write(self, conversation: list[Turn], arguments: Mapping[str, Any], *, is_private: bool) -> str:
        """Write the prompt; if it is private, errors do not repeat what the template says of it."""
        try:
            text = self._write_calls(conversation, arguments)
            first = conversation[0]
            if first["role"] == "system" and first["content"].strip() not in text:
                # Mistral's template omits the system text after tool results.
                text = self._write_calls(fold_system_into_user(conversation), arguments)
        except Exception as error:  # noqa: BLE001 - a template is a program, and may raise anything
            reason, cause = ("", None) if is_private else (f": {error}", error)
        else:
            return text
        msg = f"The model's chat template rejects these messages{reason or ', with preferences in them.'}"
        raise MessageError(msg) from cause

    def _write_calls(self, conversation: list[Turn], arguments: Mapping[str, Any]) -> str:
        try:
            return self._render_text(conversation, add_generation_prompt=True, **arguments)
        except jinja2.TemplateError:
            split = one_call_per_turn(conversation)
            if split == conversation:
                raise
            return self._render_text(split, add_generation_prompt=True, **arguments)

    @cached_property
    def tool_format(self) -> ToolFormat:
        """The format of tool calls, detected from the template.

        `GENERIC` if the template does not support tools; `OTHER` if only the tokenizer knows the format.
        """
        function = {"name": _TOOL_PROBE, "arguments": {"probe": "x"}}
        call = {"type": "function", "id": _PROBE_ID, "function": function}
        parameters = {"type": "object", "properties": {"probe": {"type": "string", "description": "a probe"}}}
        tool = {"name": _TOOL_PROBE, "description": "a probe", "parameters": {**parameters, "required": ["probe"]}}
        user = {"role": "user", "content": _USER_PROBE}
        try:
            listed = self._render_text([user], tools=[{"type": "function", "function": tool}])
            called = self._render_text([user, {"role": "assistant", "content": "", "tool_calls": [call]}])
        except Exception:  # noqa: BLE001 - a template without tool support may raise anything
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

    def _with_repeated(self, conversation: list[Turn], text: str) -> list[Turn]:
        """Append a text to the last user turn, unless it will stand there anyway for want of a system role."""
        users = [i for i, turn in enumerate(conversation) if turn["role"] == "user"]
        if not users or not (self._has_system_role or len(users) > 1):
            return conversation
        return [append(turn, text) if i == users[-1] else turn for i, turn in enumerate(conversation)]

    @cached_property
    def _system_slot(self) -> tuple[str, str] | None:
        """The prompt's text before and after the system text; `None` if the template has no system role."""
        before, found, after = self._render_probe(with_system=True).partition(_SYSTEM_PROBE)
        return (before, after) if found else None

    @property
    def _has_system_role(self) -> bool:
        return self._system_slot is not None

    @cached_property
    def _default_system_text(self) -> str:
        """The template's default system text; often empty."""
        assert self._system_slot is not None, "only used if the template has a system role"
        before, after = self._system_slot
        rendered = self._render_probe(with_system=False)
        has_slot = rendered.startswith(before) and rendered.endswith(after)
        # If the template writes no system part, `before` and `after` overlap or do not match.
        return rendered[len(before) : len(rendered) - len(after)] if has_slot else ""

    def _render_probe(self, *, with_system: bool) -> str:
        system = [{"role": "system", "content": _SYSTEM_PROBE}] if with_system else []
        return self._try_to_render([*system, {"role": "user", "content": _USER_PROBE}])

    def _try_to_render(self, conversation: list[Turn]) -> str:
        """Return a prompt, or an empty text if the template does not accept the conversation."""
        try:
            return self._render_text(conversation, add_generation_prompt=True)
        except Exception:  # noqa: BLE001 - not every template supports every role, and templates may raise anything
            return ""

    def _render_text(self, conversation: list[Turn], **kwargs: Any) -> str:
        return cast("str", self._tokenizer.apply_chat_template(conversation, tokenize=False, **kwargs))

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self._tokenizer, self._turn_markers)

    @cached_property
    def _turn_markers(self) -> set[str]:
        """The words that the template writes between turns; not all of them are control tokens."""
        system, user = {"role": "system", "content": _SYSTEM_PROBE}, {"role": "user", "content": _USER_PROBE}
        turns = [user, {"role": "assistant", "content": _ASSISTANT_PROBE}, user]
        markers: set[str] = set()
        for conversation in ([system, *turns], turns, [system, user], [user]):
            text = self._try_to_render(conversation)
            before, *between = re.split(f"{_SYSTEM_PROBE}|{_USER_PROBE}|{_ASSISTANT_PROBE}", text)
            # Role names are not markers; nor are ordinary words with punctuation before the first turn.
            markers |= {word for word in " ".join(between).split() if not word.isalnum()}
            markers |= {word for word in before.split() if not (word[0].isalnum() or word[-1].isalnum())}
        return {marker for marker in markers if len(marker) >= _MIN_MARKER_LENGTH}


def _tool_prompt(tools: Sequence[dict[str, Any]]) -> str:
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return TOOL_PROMPT.format(tools=described) if tools else ""
