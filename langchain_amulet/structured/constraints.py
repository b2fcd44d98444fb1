"""Builds the grammars of tool calls and JSON answers, and creates guides from them."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from langchain_amulet.caller_warnings import warn_caller
from langchain_amulet.engine.guide import GuideFactory
from langchain_amulet.exceptions import SchemaError
from langchain_amulet.structured.grammar import TOO_EXPENSIVE, Grammar, GrammarCompiler
from langchain_amulet.structured.output_spec import OutputSpec, closed, mentions, without_annotations
from langchain_amulet.structured.tool_formats import ToolFormat
from langchain_amulet.structured.triggered import TriggeredGuide

# JSON on one line, in the layout that models are trained on, so that no tokens are spent on whitespace.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class _Compiled(NamedTuple):
    grammar: Grammar
    unsupported: str | None
    """The part of the schema that the grammar ignores; `None` if it enforces all of the schema."""


class Constraints:
    """Creates the guides for the answers of one model.

    Args:
        compiler: Compiles grammars over the model's tokens.
        control_tokens: Maps the text of each control token to its id.
        tool_format: The syntax in which the model writes tool calls.
    """

    def __init__(self, compiler: GrammarCompiler, control_tokens: Mapping[str, int], tool_format: ToolFormat) -> None:
        self._compiler = compiler
        self._control_tokens = control_tokens
        self._format = tool_format

    def guide(self, spec: OutputSpec, *, is_steered: bool, before: str = "") -> GuideFactory | None:
        """Return a factory for the guide of one answer, or `None` if the answer is unconstrained.

        Warns if the schema has parts that the grammar cannot enforce, and `spec` allows it to ignore them.

        Args:
            spec: What the answer may contain.
            is_steered: Whether preferences also act within tool calls and JSON.
            before: Text that has to precede a forced call or JSON, such as `</think>` if the prompt ends within a
                reasoning block.

        Raises:
            SchemaError: A schema is invalid, cannot be satisfied, or has parts that the grammar cannot enforce.
        """
        if spec.is_structure:
            compiled = self._compile(partial(self._whole_answer, spec, before), spec)
            _warn_if_ignored(spec, compiled)
            return partial(compiled.grammar.start, is_steered=is_steered)
        if not spec.may_call:
            return None
        if not self._format.is_known:
            spec = replace(spec, ignore_unsupported_keywords=True)
            self._compile(partial(self._calls_after_marker, spec), spec)  # raises if a schema is invalid
            return None
        compiled = self._compile(partial(self._calls_after_marker, spec), spec)  # raises before the first token
        _warn_if_ignored(spec, compiled)
        marker, vocabulary = self._format.marker.encode(), self._compiler.vocabulary
        vocabulary.prepare(marker, is_leading=self._format.is_leading)  # while decoding, it would delay all requests
        shortest = compiled.grammar.shortest
        return lambda _max_tokens: TriggeredGuide(
            vocabulary,
            marker,
            compiled.grammar,
            self._opening_after,
            num_needed=len(marker) + len(shortest or ()),
            is_leading=self._format.is_leading,
            is_steered=is_steered,
        )

    def spell(self, token_id: int) -> bytes:
        """Return the bytes of one token; for a control token, its name."""
        return self._compiler.vocabulary.token_bytes[token_id]

    def _whole_answer(self, spec: OutputSpec, before: str, **options: bool) -> str:
        """Return the grammar of a whole answer: calls, JSON, or either."""
        kinds = []
        if spec.may_call:
            kinds.append("calls")
        if spec.schema is not None and spec.choice != "any":
            kinds.append("json")
        rules = [f"start: {self._literal(before)} ({' | '.join(kinds)})"]
        if spec.schema is not None:
            rules.append(f"json: {_json(spec.schema, **options)}")
        if spec.may_call:
            opening = self._literal(self._format.opening + self._format.prefix + self._format.before)
            rules += self._calls(spec, opening, is_parallel=bool(spec.is_parallel), **options)
        return "\n".join(["%llguidance {}", *rules])

    def _calls_after_marker(self, spec: OutputSpec, **options: bool) -> str:
        """Return the grammar of what follows the marker of a call in an answer that is otherwise free text."""
        is_list = bool(self._format.suffix) and spec.is_parallel is not False
        rules = self._calls(spec, self._literal(self._format.continuation), is_parallel=is_list, **options)
        return "\n".join(["%llguidance {}", "start: calls", *rules])

    def _opening_after(self, after_marker: bytes) -> bytes | None:
        """Return which part of the grammar is written where a token has completed the marker.

        Args:
            after_marker: The text after the marker within that token. Whitespace in it may differ from the grammar's.

        Returns:
            `None` if `after_marker` begins a call in another layout. Such a call is not constrained, but the parser may
            understand it.
        """
        expected = self._format.continuation.encode()
        if expected.startswith(after_marker):
            return after_marker
        start, text = len(expected) - len(expected.lstrip()), after_marker.strip()
        return expected[: start + len(text)] if expected.startswith(text, start) else None

    def _calls(self, spec: OutputSpec, opening: str, *, is_parallel: bool, **options: bool) -> list[str]:
        """Return the rules of one or more calls; `opening` matches everything before the first tool's name."""
        between = self._format.separator + self._format.before
        more = f"({self._literal(between)} call)*" if is_parallel else ""
        bodies = [
            f"call_{number}: {_quoted(self._format.spell(name))} {self._literal(self._format.between)} "
            f"{_json(spec.parameters(name), **options)} {self._literal(self._format.after)}"
            for number, name in enumerate(spec.callable_names)
        ]
        names = " | ".join(f"call_{number}" for number in range(len(bodies)))
        return [f"calls: {opening} call {more} {self._literal(self._format.suffix)}", f"call: {names}", *bodies]

    def _literal(self, text: str) -> str:
        """Return a text in the grammar's syntax: control tokens by their ids, everything else in quotes."""
        names = "|".join(map(re.escape, sorted(self._control_tokens, key=len, reverse=True))) or "(?!)"
        pieces = (piece for piece in re.split(f"({names})", text) if piece)
        return " ".join(
            f"<[{self._control_tokens[piece]}]>" if piece in self._control_tokens else _quoted(piece)
            for piece in pieces
        )

    def _compile(self, text: Callable[..., str], spec: OutputSpec) -> _Compiled:
        """Compile a grammar of the whole schema; or, if that fails and `spec` allows it, of the supported parts.

        Raises:
            SchemaError: The schema is invalid, cannot be satisfied, or has parts that the grammar cannot enforce.
        """
        try:
            return _Compiled(self._compile_strictly(text, spec), None)
        except SchemaError as error:
            if _is_too_expensive(error):
                raise SchemaError(_expensive_message(spec, error)) from error
            try:
                grammar = self._compile_closed_or_open(text, is_lenient=True)
            except SchemaError:
                raise SchemaError(_invalid_message(spec, error)) from error
            if not spec.ignore_unsupported_keywords:
                raise SchemaError(_unsupported_message(spec, error)) from error
            return _Compiled(grammar, str(error))

    def _compile_strictly(self, text: Callable[..., str], spec: OutputSpec) -> Grammar:
        if any(mentions(schema, ["oneOf"]) for schema in spec.schemas):
            # Branches of a oneOf may overlap in the schema itself, but not when closed: check the schema itself.
            self._compiler.compile(text(is_lenient=False, is_closed=False))
        return self._compile_closed_or_open(text, is_lenient=False)

    def _compile_closed_or_open(self, text: Callable[..., str], *, is_lenient: bool) -> Grammar:
        """Compile the schema without unnamed properties; if no text satisfies that, compile the schema as it is."""
        try:
            return self._compile_satisfiable(text(is_lenient=is_lenient, is_closed=True))
        except SchemaError as error:  # the message about the closed schema is raised if both fail
            if _is_too_expensive(error):
                raise
            with contextlib.suppress(SchemaError):
                return self._compile_satisfiable(text(is_lenient=is_lenient, is_closed=False))
            raise

    def _compile_satisfiable(self, text: str) -> Grammar:
        grammar = self._compiler.compile(text)
        grammar.check_satisfiable()
        return grammar


def _warn_if_ignored(spec: OutputSpec, compiled: _Compiled) -> None:
    """Warn in the caller's thread; Python shows equal warnings once, so it reports each schema once."""
    if compiled.unsupported is not None:
        msg = f"A part of the schema {_subject(spec)} is ignored, so the JSON may violate it: {compiled.unsupported}."
        warn_caller(msg)


def _subject(spec: OutputSpec) -> str:
    """Return whose schema an error message is about."""
    tools = f"of the tools {list(spec.callable_names)}" if spec.may_call else ""
    if spec.schema is None or spec.choice == "any":
        return tools
    title = spec.schema.get("title")
    response_format = f"of the response format {title!r}" if title else "of the response format"
    return f"{tools} or {response_format}" if tools else response_format


def _invalid_message(spec: OutputSpec, error: SchemaError) -> str:
    return f"The schema {_subject(spec)} cannot be followed: {error}. Correct this part of the schema, or leave it out."


def _is_too_expensive(error: SchemaError) -> bool:
    return str(error).startswith(TOO_EXPENSIVE)


def _expensive_message(spec: OutputSpec, error: SchemaError) -> str:
    return (
        f"The schema {_subject(spec)} cannot be followed: {error}. Use a smaller schema: fewer optional properties and "
        "branches, shorter enums, and patterns without nested or large repetitions."
    )


def _unsupported_message(spec: OutputSpec, error: SchemaError) -> str:
    return (
        f"The schema {_subject(spec)} has a part that the grammar cannot enforce: {error}. Leave this part out of the "
        "schema, or pass ignore_unsupported_keywords=True to have it ignored; the JSON may violate it then."
    )


def _json(schema: Mapping[str, Any], *, is_lenient: bool, is_closed: bool) -> str:
    enforced = without_annotations(closed(schema) if is_closed else schema)
    options = {**_LAYOUT, "coerce_one_of": is_lenient, "lenient": is_lenient}
    return "%json " + json.dumps({**enforced, "x-guidance": options})


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
