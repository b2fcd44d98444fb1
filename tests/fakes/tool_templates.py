"""Chat templates of model families that support tools, the calls of their models, and tokenizers with the templates.

The templates are short rewrites that render the same text as the published ones.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.fakes.chat_templates import byte_tokenizer

Calls = Sequence[tuple[str, dict[str, Any]]]

_CHATML_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>{% for tool in tools %}"
    "{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools>\n\n' }}"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_CHATML_RESULT = (
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}"
    "{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}"
)
_CHATML_CALLS = (
    "{%- for call in message.tool_calls %}{%- set call = call.function %}"
    "{{- '\n' if message.content or not loop.first }}"
    """{{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson + '}\n</tool_call>' }}"""
    "{%- endfor %}"
)

# Qwen/Qwen2.5-7B-Instruct
QWEN25 = (
    "{%- set text = messages[0].content if messages[0].role == 'system' "
    "else 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}"
    "{{- '<|im_start|>system\n' + text }}{%- if tools %}{{- '\n\n' }}" + _CHATML_TOOLS + "{% endif %}"
    "{{- '<|im_end|>\n' }}{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant\n' + message.content }}" + _CHATML_CALLS + ""
    "{{- '<|im_end|>\n' }}{%- elif message.role == 'tool' %}" + _CHATML_RESULT + "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# Qwen/Qwen3-8B: leaves out the reasoning of earlier turns; `enable_thinking=False` turns reasoning off.
QWEN3 = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{% endif %}" + _CHATML_TOOLS + ""
    "{{- '<|im_end|>\n' }}{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n' + message.content.split('</think>')[-1].lstrip('\n') }}" + _CHATML_CALLS + ""
    "{{- '<|im_end|>\n' }}{%- elif message.role == 'tool' %}" + _CHATML_RESULT + "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)

# deepseek-ai/DeepSeek-R1 and other models that always reason: the prompt opens the reasoning.
THINKING = QWEN3.replace(
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}",
    "{{- '<think>\n' }}",
)

# NousResearch/Hermes-3-Llama-3.1-8B, its tool_use template.
HERMES3 = (
    "{{- bos_token + '<|im_start|>system\nYou are a function calling AI model. You are provided with function "
    "signatures within <tools></tools> XML tags. Here are the available tools: <tools> ' }}"
    """{%- for tool in tools or [] %}{{- '{"type": "function", "function": ' + tool.function | tojson + '}' }}"""
    "{{- '' if loop.last else '\n' }}{%- endfor %}{{- ' </tools>\nFor each function call return a json object with "
    "function name and arguments within <tool_call></tool_call> XML tags as follows:\n<tool_call>\n"
    """{"name": <function-name>, "arguments": <args-dict>}\n</tool_call><|im_end|>\n' }}"""
    "{%- for message in messages %}{%- if message.role in ('user', 'system') or "
    "(message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant' }}{%- for call in message.tool_calls %}"
    """{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}"""
    "{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- elif message.role == 'tool' %}"
    "{%- if not message.name is defined %}{{- raise_exception('Tool responses need a name') }}{%- endif %}"
    "{%- if loop.previtem and loop.previtem.role != 'tool' %}{{- '<|im_start|>tool\n' }}{%- endif %}"
    "{{- '<tool_response>\n' + message.content + ('\n</tool_response>' if loop.last else '\n</tool_response>\n') }}"
    "{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>' }}{%- endif %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# meta-llama/Llama-3.1-8B-Instruct: tools open the first user turn; one call per turn.
LLAMA31 = (
    "{{- bos_token }}{%- set tools = tools if tools is defined else none %}{%- set system = '' %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Environment: ipython\n' if tools is not none }}"
    "{{- 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}"
    "{%- if tools is not none %}{%- if messages | length == 0 %}"
    "{{- raise_exception('Cannot put tools in the first user message when there is none!') }}{%- endif %}"
    "{{- '<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond with a JSON for a "
    "function call with its proper arguments that best answers the given prompt.\n\nRespond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\n\n\' }}'
    "{%- for tool in tools %}{{- tool | tojson(indent=4) + '\n\n' }}{%- endfor %}"
    "{{- messages[0]['content'] | trim + '<|eot_id|>' }}{%- set messages = messages[1:] %}{%- endif %}"
    "{%- for message in messages %}{%- if 'tool_calls' in message %}{%- if message.tool_calls | length != 1 %}"
    "{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}"
    "{%- set call = message.tool_calls[0].function %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    """{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}"""
    "{%- elif message.role == 'tool' %}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}"
    "{{- message.content | tojson + '<|eot_id|>' }}{%- else %}"
    "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)

_NINE = (
    "{%%- if %s is not string or %s | length != 9 %%}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%%- endif %%}"
)
# mistralai/Mistral-7B-Instruct-v0.3: tools before the last user turn, the system text in it if nothing follows.
MISTRAL = (
    "{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{%- for message in turns | rejectattr('role', 'equalto', 'tool') | selectattr('tool_calls', 'undefined') %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}"
    "{%- endif %}{%- endfor %}{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}{{- bos_token }}"
    "{%- for message in turns %}{%- if message.role == 'user' %}{%- if tools and message == users[-1] %}"
    "{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{{- '[INST] ' + (messages[0].content + '\n\n' if loop.last and messages[0].role == 'system' else '') }}"
    "{{- message.content + '[/INST]' }}{%- elif message.tool_calls is defined %}{{- '[TOOL_CALLS] [' }}"
    "{%- for call in message.tool_calls %}" + _NINE % ("call.id", "call.id") + "{{- (call.function | tojson)[:-1] }}"
    """{{- ', "id": "' + call.id + '"}' + (']' + eos_token if loop.last else ', ') }}{%- endfor %}"""
    "{%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}{%- elif message.role == 'tool' %}"
    f"{_NINE % ('message.tool_call_id', 'message.tool_call_id')}"
    """{{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id }}"""
    """{{- '"}[/TOOL_RESULTS]' }}{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}"""
    "{%- endif %}{%- endfor %}"
)

# mistralai/Devstral-Small-2507 and other models since mid-2025.
MISTRAL_V11 = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + messages[0].content + '[/SYSTEM_PROMPT]' }}{%- set messages = messages[1:] %}{%- endif %}"
    "{%- if tools %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}"
    "{%- elif message.role == 'assistant' %}{{- message.content }}{%- for call in message.tool_calls or [] %}"
    "{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + call.function.arguments | tojson }}{%- endfor %}"
    "{{- eos_token }}{%- elif message.role == 'tool' %}"
    "{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}{%- endif %}{%- endfor %}"
)

# Qwen/Qwen3.5-9B: calls in XML.
QWEN35 = (
    "{%- if tools %}{{- '<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n<tools>' }}"
    "{%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}{{- '\n</tools>' }}"
    "{{- '\n\n' + messages[0].content if messages[0].role == 'system' }}{{- '<|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- endif %}{%- for message in messages %}{%- if message.role == 'user' %}"
    "{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n' + message.content }}{%- for call in message.tool_calls or [] %}"
    "{{- '\n\n' if message.content and loop.first }}{{- '<tool_call>\n<function=' + call.function.name + '>\n' }}"
    "{%- for key, value in call.function.arguments | items %}"
    "{{- '<parameter=' + key + '>\n' + (value if value is string else value | tojson) + '\n</parameter>\n' }}"
    "{%- endfor %}{{- '</function>\n</tool_call>' + ('' if loop.last else '\n') }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}" + _CHATML_RESULT + "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN35_RESPONSES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}

# google/gemma-4-E4B-it: calls that are almost JSON.
GEMMA4 = (
    "{{- bos_token }}{%- if tools or messages[0].role == 'system' %}{{- '<|turn>system\n' }}"
    "{{- messages[0].content if messages[0].role == 'system' }}"
    "{%- for tool in tools or [] %}{{- '<|tool>' + tool.function | tojson + '<tool|>' }}{%- endfor %}{{- '<turn|>\n' }}"
    "{%- endif %}{%- for message in messages %}{%- if message.role == 'user' %}"
    "{{- '<|turn>user\n' + message.content + '<turn|>\n' }}{%- elif message.role == 'assistant' %}"
    "{{- '<|turn>model\n' }}{%- for call in message.tool_calls or [] %}"
    "{{- '<|tool_call>call:' + call.function.name + '{' }}{%- for key, value in call.function.arguments | items %}"
    """{{- key + ':' + ('<|"|>' + value + '<|"|>' if value is string else value | tojson) }}"""
    "{{- '' if loop.last else ',' }}{%- endfor %}{{- '}<tool_call|>' }}{%- endfor %}"
    "{{- message.content + '<turn|>\n' }}{%- elif message.role == 'tool' %}"
    "{{- '<|turn>user\n<|tool_response>' + message.content + '<tool_response|><turn|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|turn>model\n' }}{%- endif %}"
)
GEMMA4_RESPONSES = {
    "defaults": {"role": "assistant"},
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<turn|>", "<|tool_response>", "<eos>"], "content": "text"},
    },
}


class Family(NamedTuple):
    """The template of one family of models, and the syntax of its calls."""

    template: str
    write: Callable[[Calls], str]
    """Write calls as the models do."""
    tokens: Sequence[str] = ()
    """Control tokens in addition to those of all families."""
    responses: dict[str, Any] | None = None
    """The tokenizer's own response template."""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hermes(calls: Calls) -> str:
    return "\n".join(f"<tool_call>\n{_json({'name': n, 'arguments': a})}\n</tool_call>" for n, a in calls)


def _llama(calls: Calls) -> str:
    return "; ".join(_json({"name": name, "parameters": arguments}) for name, arguments in calls)


def _mistral(calls: Calls) -> str:
    return f"[TOOL_CALLS] {_json([{'name': name, 'arguments': arguments} for name, arguments in calls])}"


def _mistral_v11(calls: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{_json(arguments)}" for name, arguments in calls)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _xml(calls: Calls) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{_text(value)}\n</parameter>\n" for key, value in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def _gemma(calls: Calls) -> str:
    quoted = {True: '<|"|>{}<|"|>', False: "{}"}
    bodies = (
        (name, ",".join(f"{key}:{quoted[isinstance(value, str)].format(_text(value))}" for key, value in args.items()))
        for name, args in calls
    )
    return "".join(f"<|tool_call>call:{name}{{{body}}}<tool_call|>" for name, body in bodies)


_TOOL_CALL = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_THINK = ("<think>", "</think>")
_MISTRAL = ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_GEMMA = ("<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>")

FAMILIES = {
    "qwen2.5": Family(QWEN25, _hermes, _TOOL_CALL),
    "qwen3": Family(QWEN3, _hermes, _TOOL_CALL + _THINK),
    "thinking": Family(THINKING, _hermes, _TOOL_CALL + _THINK),
    "hermes": Family(HERMES3, _hermes),
    "llama3.1": Family(LLAMA31, _llama, ["<|python_tag|>"]),
    "mistral": Family(MISTRAL, _mistral, _MISTRAL),
    "mistral v11": Family(MISTRAL_V11, _mistral_v11, (*_MISTRAL, "[ARGS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "qwen3.5": Family(QWEN35, _xml, _TOOL_CALL + _THINK, QWEN35_RESPONSES),
    "gemma4": Family(GEMMA4, _gemma, _GEMMA, GEMMA4_RESPONSES),
}
# Tokens, but not special tokens: `decode` shows them even with `skip_special_tokens`.
_VISIBLE = {*_TOOL_CALL, *_THINK}


def tool_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return the byte tokenizer with the template and control tokens of a family."""
    template, _, tokens, responses = FAMILIES[family]
    tokenizer = byte_tokenizer(template)
    for token in tokens:
        added = AddedToken(token, special=token not in _VISIBLE, normalized=False)
        tokenizer.add_tokens([added], special_tokens=added.special)
    tokenizer.response_template = responses
    return tokenizer
