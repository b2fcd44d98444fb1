"""From what an answer may be to the grammar that makes it so."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any

from langchain_amulet.engine.guide import GuideFactory
from langchain_amulet.exceptions import SchemaError
from langchain_amulet.structured.grammar import Grammar, GrammarCompiler
from langchain_amulet.structured.output_spec import OutputSpec, closed
from langchain_amulet.structured.tool_formats import ToolFormat
from langchain_amulet.structured.triggered import TriggeredGuide

logger = logging.getLogger(__name__)

# JSON on one line, as models are used to it, so that no answer can be spent on blanks.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}


class Constraints:
    """Makes the guides of one model's answers.

    Args:
        compiler: Of grammars over the model's tokens.
        control_tokens: Ids of the control tokens, by name.
        tool_format: How its tool calls are written.
    """

    def __init__(self, compiler: GrammarCompiler, control_tokens: Mapping[str, int], tool_format: ToolFormat) -> None:
        self._compiler = compiler
        self._control_tokens = control_tokens
        self._format = tool_format

    def guide(self, spec: OutputSpec, *, is_steered: bool, before: str = "") -> GuideFactory | None:
        """What leads the answer; `None` if it may be anything.

        Args:
            spec: What the answer may be.
            is_steered: Whether style acts on structure.
            before: What has to come before any structure, such as the end of a part that the prompt has begun.

        Raises:
            SchemaError: A schema cannot be followed.
        """
        if spec.is_structure:
            return partial(self._grammar(partial(self._whole, spec, before), spec).start, is_steered=is_steered)
        if not spec.may_call:
            return None
        continuation = cache(partial(self._continuation, spec))
        first = continuation(b"")  # refuses bad schemas now
        if first is None or not self._format.is_known:
            return None
        marker, vocabulary = self._format.marker.encode(), self._compiler.vocabulary
        vocabulary.openers(marker, is_leading=self._format.is_leading)  # made here, since others wait for the engine
        return lambda _max_tokens: TriggeredGuide(
            vocabulary,
            marker,
            continuation,
            num_needed=len(marker) + len(first.shortest),
            is_leading=self._format.is_leading,
            is_steered=is_steered,
        )

    def spell(self, token_id: int) -> bytes:
        """The bytes of one token; the name of a control token."""
        return self._compiler.vocabulary.token_bytes[token_id]

    def _whole(self, spec: OutputSpec, before: str, **how: bool) -> str:
        """A grammar of the whole answer: calls, JSON, or either."""
        kinds = []
        if spec.may_call:
            kinds.append("calls")
        if spec.schema is not None and spec.choice != "any":
            kinds.append("json")
        rules = [f"start: {self._literal(before)} ({' | '.join(kinds)})"]
        if spec.schema is not None:
            rules.append(f"json: {_json(spec.schema, **how)}")
        if spec.may_call:
            opening = self._literal(self._format.opening + self._format.prefix + self._format.before)
            rules += self._calls(spec, opening, is_parallel=bool(spec.is_parallel), **how)
        return "\n".join(["%llguidance {}", *rules])

    def _continuation(self, spec: OutputSpec, behind: bytes) -> Grammar | None:
        """What follows the marker of a call in a text, of which some is written already."""
        expected = self._format.continuation.encode()
        if not expected.startswith(behind):
            expected, behind = expected.lstrip(), behind.strip()
        if not expected.startswith(behind):
            return None  # written in another way; the parser may understand it
        rest = self._literal(expected[len(behind) :].decode())
        is_list = bool(self._format.suffix) and spec.is_parallel is not False

        def text(**how: bool) -> str:
            rules = self._calls(spec, rest, is_parallel=is_list, **how)
            return "\n".join(["%llguidance {}", "start: calls", *rules])

        return self._grammar(text, spec)

    def _calls(self, spec: OutputSpec, opening: str, *, is_parallel: bool, **how: bool) -> list[str]:
        """Rules of one or more calls; the opening is all that comes before the first name."""
        between = self._format.separator + self._format.before
        more = f"({self._literal(between)} call)*" if is_parallel else ""
        bodies = [
            f"call_{number}: {self._literal(name + self._format.between)} "
            f"{_json(spec.parameters(name), **how)} {self._literal(self._format.after)}"
            for number, name in enumerate(spec.callable_names)
        ]
        names = " | ".join(f"call_{number}" for number in range(len(bodies)))
        return [f"calls: {opening} call {more} {self._literal(self._format.suffix)}", f"call: {names}", *bodies]

    def _literal(self, text: str) -> str:
        """A text as a grammar writes it: control tokens by their ids, all else in quotes."""
        names = "|".join(map(re.escape, sorted(self._control_tokens, key=len, reverse=True))) or "(?!)"
        pieces = (piece for piece in re.split(f"({names})", text) if piece)
        return " ".join(
            f"<[{self._control_tokens[piece]}]>" if piece in self._control_tokens else _quoted(piece)
            for piece in pieces
        )

    def _grammar(self, text: Callable[..., str], spec: OutputSpec) -> Grammar:
        """Compile strictly; else with properties that the schema leaves open; else without what llguidance ignores."""
        refused: SchemaError | None = None
        for is_lenient, is_closed in ((False, True), (False, False), (True, True), (True, False)):
            try:
                grammar = _checked(self._compiler.compile(text(is_lenient=is_lenient, is_closed=is_closed)))
            except SchemaError as error:
                refused = refused or error
                continue
            if is_lenient:
                _warn_once(str(refused).split("\n", maxsplit=1)[0])
            return grammar
        assert refused is not None, "each way was refused"
        raise SchemaError(_refusal(spec, refused)) from refused


@lru_cache(maxsize=256)
def _warn_once(reason: str) -> None:
    logger.warning("Parts of a schema are ignored, so that JSON may not follow them: %s", reason)


def _checked(grammar: Grammar) -> Grammar:
    assert grammar.shortest is not None, "there is a text, else it was refused"
    return grammar


def _refusal(spec: OutputSpec, error: SchemaError) -> str:
    what = f"of the tools {list(spec.callable_names)}" if spec.may_call else "of the response format"
    return f"The schema {what} cannot be followed: {error} Correct the schema, or leave this part of it out."


def _json(schema: Mapping[str, Any], *, is_lenient: bool, is_closed: bool) -> str:
    written = closed(schema) if is_closed else schema
    return "%json " + json.dumps({**written, "x-guidance": {**_LAYOUT, "lenient": is_lenient}})


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
