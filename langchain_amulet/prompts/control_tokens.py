"""Finds control tokens in texts that are not the chat template's, and removes them or makes them plain text."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import cast

from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import MessageError
from langchain_amulet.structured.tool_formats import TOOL_PROMPT

_BREAKS = range(0x10FFFD, 0xFFFFF, -1)  # characters for private use, which have no meaning
_LINE_BREAK = "\n"
# Turn markers that are tokens but not special tokens look like this: <|user|>, <|turn>, [|user|]; also with wide bars.
_TURN_TOKEN = re.compile(r"<[|\uff5c].+>|<.+[|\uff5c]>|\[\|.+\|\]", re.DOTALL)
_OWN_MARKERS = f"{TOOL_PROMPT}<tool_response></tool_response><think></think>"


class ControlTokens:
    """The control tokens of a tokenizer, in texts that must not contain any.

    *Turn tokens* are the special tokens, and added tokens that look like `<|this|>`. *Control tokens* are the turn
    tokens, and further added tokens that the chat template or the tokenizer's `chat_control_tokens` mentions, such as
    `<think>` and `<tool_call>`. Tokens of a single character or of whitespace alone are neither.

    To make a text plain, a *break* (a character that no text contains) is put into each of its control tokens. The chat
    template renders the broken texts, and `encode` cuts the prompt at the breaks. So the only control tokens are those
    that the template writes, and yet the model reads all characters of the texts.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        turn_markers: Words that the template writes between turns; not all of them are tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, turn_markers: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._turn_markers = set(turn_markers)

    def broken(self, text: str, mark: str, *, is_own: bool = False) -> str:
        """Return the text with a break in each control token.

        Args:
            text: A text that the template will write into the prompt.
            mark: The break.
            is_own: Whether the text is the application's or the model's own, in which only turn tokens are broken.
        """
        tokens = self._turn_tokens if is_own else self._control_tokens
        text = self._starts[is_own].sub(rf"\g<0>{mark}", text)
        if self._has_look_alikes:
            text = mark.join(self._cut(text.split(mark), set(tokens.values())))
        return text

    def edged(self, text: str, mark: str) -> str:
        """Return the text with a break at each end where other text might complete it to a control token.

        Breaks are within the whitespace around the text, which templates may strip.
        """
        core = text.strip()
        seen = self._normalise(core).strip()
        beginnings, endings, all_texts = self._parts
        lengths = range(1, max(map(len, beginnings), default=0) + 1)
        is_inside = seen in all_texts
        before = mark if is_inside or any(seen[:length] in endings for length in lengths) else ""
        after = mark if is_inside or any(seen[-length:] in beginnings for length in lengths) else ""
        return text.replace(core, f"{before}{core}{after}", 1) if core and (before or after) else text

    def count(self, prompt: str) -> int:
        """Return how many control tokens a prompt with breaks contains; the template's own are among them."""
        return len(self._occurrence.findall(self._normalise(prompt)))

    def encode(self, prompt: str, mark: str) -> list[int]:
        """Return the token ids of a rendered prompt; what is between two breaks is encoded on its own."""
        first, *others = prompt.split(mark)
        token_ids = self._encode([first])[0]
        if not others:
            return token_ids
        # After a line break no tokenizer adds a space, as some do at the start of a text.
        line_break, *encoded = self._encode([_LINE_BREAK, *(_LINE_BREAK + piece for piece in others)])
        for piece, piece_ids in zip(others, encoded, strict=True):
            is_apart = piece_ids[: len(line_break)] == line_break
            token_ids += piece_ids[len(line_break) :] if is_apart else self._encode([piece])[0]
        return token_ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return cast("list[list[int]]", self._tokenizer(texts, add_special_tokens=False).input_ids)

    def _cut(self, pieces: list[str], token_ids: set[int]) -> Iterator[str]:
        """Cut pieces until none has one of the tokens: normalisation may make control tokens of other characters."""
        todo = pieces[::-1]
        while todo:
            piece = todo.pop()
            encoding = self._tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            found = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
            spans = [(start, end) for token_id, (start, end) in found if token_id in token_ids and end > start]
            # A character that is a token by itself is left out.
            edges = [0, *(edge for start, end in spans for edge in _edges(start, end)), len(piece)]
            if spans:
                todo += [piece[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)][::-1]
            else:
                yield piece

    def remove(self, text: str) -> str:
        """Remove added tokens and turn markers, including those that form when others are removed.

        The time is linear in the length of the text: it is read once, from its end to its start.
        """
        if not self._forbidden.search(text):
            return text.strip()
        kept: list[str] = []  # in reverse
        for character in reversed(text):
            kept.append(character)
            if character in self._first_characters:
                # What was kept before contains no forbidden word, so that one can only begin here.
                following = "".join(reversed(kept[-self._max_length :]))
                if found := self._forbidden.match(following):
                    del kept[-found.end() :]
        return "".join(reversed(kept)).strip()

    @cached_property
    def _forbidden_words(self) -> set[str]:
        added = (token.content for token in self._tokenizer.added_tokens_decoder.values())
        return {*(token for token in added if not token.isspace()), *self._turn_markers} - {""}

    @cached_property
    def _forbidden(self) -> re.Pattern[str]:
        return re.compile(_any_of(self._forbidden_words) or "(?!)", re.DOTALL)

    @cached_property
    def _first_characters(self) -> set[str]:
        return {word[0] for word in self._forbidden_words}

    @cached_property
    def _max_length(self) -> int:
        return max(map(len, self._forbidden_words), default=0)

    @cached_property
    def _control_tokens(self) -> dict[str, int]:
        """The ids of all control tokens, by text."""
        mentioned = f"{self._tokenizer.chat_template}{_OWN_MARKERS}"
        named = self._tokenizer.chat_control_tokens or ()
        return {
            text: token_id
            for text, token_id in self._added_tokens.items()
            if text in self._turn_tokens or text in mentioned or text in named
        }

    @cached_property
    def _turn_tokens(self) -> dict[str, int]:
        added = self._tokenizer.added_tokens_decoder
        return {text: i for text, i in self._added_tokens.items() if added[i].special or _TURN_TOKEN.fullmatch(text)}

    @cached_property
    def _added_tokens(self) -> dict[str, int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return {token.content: token_id for token_id, token in added if len(token.content.strip()) > 1}

    @cached_property
    def _starts(self) -> dict[bool, re.Pattern[str]]:
        """Patterns that match the first character of every control token, and of every turn token."""
        tokens = {False: self._control_tokens, True: self._turn_tokens}
        return {is_own: re.compile(f"(?={_any_of(texts) or '(?!)'}).", re.DOTALL) for is_own, texts in tokens.items()}

    @cached_property
    def _parts(self) -> tuple[set[str], set[str], str]:
        """The beginnings and the endings of control tokens, and a text in which all tokens are."""
        cuts = [(text, cut) for text in self._searched for cut in range(1, len(text))]
        return {text[:cut] for text, cut in cuts}, {text[cut:] for text, cut in cuts}, "\0".join(self._searched)

    @cached_property
    def _occurrence(self) -> re.Pattern[str]:
        return re.compile(f"(?={_any_of(self._searched) or '(?!)'})", re.DOTALL)

    @cached_property
    def _searched(self) -> set[str]:
        """The texts of control tokens as they are, and as the tokenizer searches them in normalised text."""
        return {form for text in self._control_tokens for form in (text, self._normalise(text).strip())}

    def _normalise(self, text: str) -> str:
        """Return the text in which the tokenizer searches control tokens."""
        return self._tokenizer.backend_tokenizer.normalizer.normalize_str(text) if self._has_look_alikes else text

    @cached_property
    def _has_look_alikes(self) -> bool:
        """Whether the tokenizer searches control tokens in normalised text."""
        added = self._tokenizer.added_tokens_decoder
        is_normalised = any(added[token_id].normalized for token_id in self._control_tokens.values())
        return is_normalised and self._tokenizer.backend_tokenizer.normalizer is not None


def _any_of(words: Iterable[str]) -> str:
    """Return a regular expression for the longest of the words, as a tree, so that no beginning is tried twice."""
    rests: defaultdict[str, set[str]] = defaultdict(set)
    for word in filter(None, words):
        rests[word[0]].add(word[1:])
    branches = [re.escape(first) + _any_of(rest) for first, rest in sorted(rests.items())]
    if len(branches) == 1 and "" not in words:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if '' in words else ''}" if branches else ""


def _edges(start: int, end: int) -> list[int]:
    """Return where to cut so that the characters from `start` to `end` are not together."""
    middle = (start + end) // 2
    return [middle, middle] if end - start > 1 else [start, end]


def unused_character(texts: Iterable[str]) -> str:
    """Return a character that occurs in none of the texts.

    Raises:
        MessageError: The texts contain all characters for private use.
    """
    texts = list(texts)
    if not any(chr(_BREAKS[0]) in text for text in texts):
        return chr(_BREAKS[0])
    used = set().union(*texts)
    for code in _BREAKS:
        if chr(code) not in used:
            return chr(code)
    msg = "The messages contain all of Unicode's characters for private use. Leave out some of them."
    raise MessageError(msg)
