"""Combines the streams of each sequence in a batch, and samples its next token."""

from collections import abc, defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from langchain_amulet.engine.guide import Guide
from langchain_amulet.engine.sampling import penalise, sample
from langchain_amulet.engine.sequence import Sequence, TokenLogprobs
from langchain_amulet.engine.tracing import TracedToken, traced
from langchain_amulet.exceptions import AmuletError, GenerationError, NumericalError
from langchain_amulet.realignment.batched import BatchedRealignment
from langchain_amulet.realignment.comparison import compare

_NOT_FINITE = (
    "The model's logits are NaN, or leave no token to choose. In float16, load the model in bfloat16 or float32 "
    '(model_kwargs={"dtype": "float32"}); otherwise its weights may be damaged.'
)
_SECOND_DRAW = 0x5DEECE66D  # XOR with a key gives the key of an independent second draw


class Batch:
    """Draws the next token of several sequences.

    Sequences with the same number of streams and the same guards form a group, and each group is one call. So the
    guards of a request take no time in requests without them.

    Args:
        sequences: The sequences that draw a token.
        rows: For each sequence, the indices of the rows of logits of its streams.
    """

    def __init__(self, sequences: abc.Sequence[Sequence], rows: abc.Sequence[abc.Sequence[int]]) -> None:
        self.sequences = list(sequences)
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        mixed = [row[: sequence.request.num_mixed] for sequence, row in zip(sequences, rows, strict=True)]
        for index, sequence in enumerate(sequences):
            guards = tuple(sequence.request.realignment.active_guards) if len(mixed[index]) > 1 else ()
            groups[len(mixed[index]), sequence.guide is not None, guards].append(index)
        self._groups = [
            (_GuidedGroup if sequences[members[0]].guide else _Group)(
                members, [sequences[index] for index in members], [row for index in members for row in mixed[index]]
            )
            for members in groups.values()
        ]
        self._is_traced = any(sequence.request.trace is not None for sequence in sequences)
        self._rows = [list(row) for row in rows]  # all rows of each sequence

    def select(self, indices: abc.Sequence[int]) -> "Batch":
        """Return a batch of the sequences with these indices."""
        return Batch([self.sequences[index] for index in indices], [self._rows[index] for index in indices])

    def draw(self, logits: Tensor) -> None:
        """Sample one token for each sequence and append it. A sequence with invalid logits ends with an error.

        Args:
            logits: Next-token logits of all rows, `(rows, V)`.
        """
        combined, keys = self._combined(logits, [sequence.next_key() for sequence in self.sequences])
        tokens = _sample(combined, self.sequences, keys)
        is_sound = combined.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).isfinite() & combined.amax(-1).isfinite()
        drawn: list[list[int]] = torch.stack([tokens, is_sound.to(tokens.dtype)]).tolist()  # synchronises once
        draws = self._traced_draws(logits, keys) if self._is_traced else {}
        accepted: dict[int, int] = {}
        for index, (sequence, token_id, sound) in enumerate(zip(self.sequences, *drawn, strict=True)):
            if not sound:
                sequence.is_sound = False
                sequence.finish("error", NumericalError(_NOT_FINITE))
            elif (chosen := _accepted(sequence, token_id)) is not None:
                accepted[index] = chosen
        logprobs = self._logprobs(combined, accepted)
        for index, token_id in accepted.items():
            sequence, draw = self.sequences[index], draws.get(index)
            trace = None if draw is None else draw.trace(sequence, token_id, combined[index])
            sequence.append(token_id, logprobs.get(index), trace)

    def _logprobs(self, combined: Tensor, tokens: abc.Mapping[int, int]) -> dict[int, TokenLogprobs]:
        """Return the log-probabilities of tokens, by the index of the sequence, for requests that ask for them."""
        wanted: dict[int, list[int]] = defaultdict(list)  # by how many of the likeliest tokens they ask for
        for index in tokens:
            number = self.sequences[index].request.logprobs
            if number is not None:
                wanted[min(number, combined.shape[-1])].append(index)
        entries: dict[int, TokenLogprobs] = {}
        for number, indices in wanted.items():
            drawn = [tokens[index] for index in indices]
            rows = combined if len(indices) == len(combined) else combined[indices]
            entries |= zip(indices, _token_logprobs(rows, drawn, number), strict=True)
        return entries

    def _traced_draws(self, logits: Tensor, keys: list[int]) -> dict[int, "_Draw"]:
        """Return what the tokens of traced sequences were drawn from, by the index of the sequence."""
        return {
            member: _Draw(logits[self._rows[member]], keys[member], *group.constraint(position))
            for group in self._groups
            for position, member in enumerate(group.members)
            if self.sequences[member].request.trace is not None
        }

    def _combined(self, logits: Tensor, keys: list[int]) -> tuple[Tensor, list[int]]:
        """Combine the streams of each sequence.

        Returns:
            The distribution of each sequence, `(B, V)`: realigned log-probabilities, or the logits of a single stream;
            and the random key of each draw.
        """
        if len(self._groups) == 1:
            return self._groups[0].combined(logits, keys)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        combined = torch.empty(len(self.sequences), logits.shape[-1], dtype=dtype, device=logits.device)
        all_keys = list(keys)
        for group in self._groups:
            combined[group.members], group_keys = group.combined(logits, [keys[index] for index in group.members])
            for index, key in zip(group.members, group_keys, strict=True):
                all_keys[index] = key
        return combined, all_keys


def _sample(logits: Tensor, sequences: abc.Sequence[Sequence], keys: abc.Sequence[int]) -> Tensor:
    return sample(_penalised(logits, sequences), [sequence.request.sampling for sequence in sequences], keys)


def _penalised(logits: Tensor, sequences: abc.Sequence[Sequence]) -> Tensor:
    penalties = [sequence.request.sampling.repetition_penalty for sequence in sequences]
    if all(penalty == 1 for penalty in penalties):
        return logits
    return penalise(logits, [sequence.seen_ids(logits.device) for sequence in sequences], penalties)


@dataclass(frozen=True, slots=True)
class _Draw:
    """What a token of a traced sequence was drawn from."""

    logits: Tensor  # of all streams, (S, V)
    key: int
    allowed: Tensor | None  # the tokens that the guide allowed, bool (V,)
    is_steered: bool

    def trace(self, sequence: Sequence, token_id: int, combined: Tensor) -> TracedToken | None:
        """Return the trace of a token that was drawn from the combined streams, `(V,)`."""
        request = sequence.request
        if request.trace is None:
            return None
        comparison = compare(
            self.logits,
            combined,
            request.trace,
            request.mixture,
            is_steered=self.is_steered,
            allowed=self.allowed,
        )
        return traced(comparison, token_id, lambda policies: self._choose(sequence, policies))

    def _choose(self, sequence: Sequence, policies: Tensor) -> list[int]:
        number = len(policies)
        token_ids: list[int] = _sample(policies, [sequence] * number, [self.key] * number).tolist()
        return token_ids


def _accepted(sequence: Sequence, token_id: int) -> int | None:
    """Return the drawn token, or the token with which the guide replaces it; `None` if the guide fails."""
    if sequence.guide is None or sequence.is_finished:
        return token_id
    try:
        return sequence.guide.accept(token_id, sequence.num_left)
    except Exception as error:  # noqa: BLE001
        _fail(sequence, error)
        return None


def _token_logprobs(logits: Tensor, token_ids: list[int], num_top: int) -> list[TokenLogprobs]:
    """Return the log-probability of one token per row, `(B, V)`, and of the `num_top` likeliest ones."""
    log_probs = logits.log_softmax(-1)
    top, ids = log_probs.topk(num_top)
    drawn = log_probs.gather(-1, torch.tensor(token_ids, device=logits.device).unsqueeze(-1))
    rows = zip(token_ids, drawn.squeeze(-1).tolist(), ids.tolist(), top.tolist(), strict=True)
    return [TokenLogprobs(token, value, [*zip(*likeliest, strict=True)]) for token, value, *likeliest in rows]


@dataclass(slots=True)
class _Group:
    """Sequences without guides that have the same number of streams and the same guards."""

    members: list[int]  # indices of the sequences in the batch
    sequences: list[Sequence]
    rows: list[int]  # indices of the rows of all streams, sequence by sequence
    realignment: BatchedRealignment | None = None  # built at the first draw, on the device of the logits

    def combined(self, logits: Tensor, keys: list[int]) -> tuple[Tensor, list[int]]:
        """Return the logits from which each sequence draws, `(B, V)`, and the keys, unchanged."""
        streams = _streams(logits, self.rows, len(self.sequences))
        if streams.shape[1] == 1:
            return _at_least_float32(streams[:, 0]), keys
        if self.realignment is None:
            self.realignment = _stacked_realignment(self.sequences, logits)
        return self.realignment.realign(streams), keys

    def constraint(self, position: int) -> tuple[Tensor | None, bool]:  # noqa: ARG002 - as in guided groups
        """Return the tokens that the last draw of a sequence could choose, `None` for all; and whether it was steered.

        Args:
            position: The index of the sequence in the group.
        """
        return None, True


@dataclass(slots=True)
class _GuidedGroup:
    """Sequences with guides that have the same number of streams and the same guards."""

    members: list[int]
    sequences: list[Sequence]
    rows: list[int]
    realignment: BatchedRealignment | None = None
    constraints: list[tuple[Tensor | None, bool]] = field(default_factory=list)  # of the last draws

    def constraint(self, position: int) -> tuple[Tensor | None, bool]:
        """Return the tokens that the last draw of a sequence could choose, `None` for all; and whether it was steered.

        Args:
            position: The index of the sequence in the group.
        """
        return self.constraints[position]

    def combined(self, logits: Tensor, keys: list[int]) -> tuple[Tensor, list[int]]:
        """Return the logits from which each sequence draws, `(B, V)`, and the keys of their draws."""
        streams = _streams(logits, self.rows, len(self.sequences))
        allowed = [_allowed(sequence) for sequence in self.sequences]
        if streams.shape[1] == 1:
            self.constraints = [(mask, True) for mask in allowed]
            return _masked(_at_least_float32(streams[:, 0]), allowed), keys
        if self.realignment is None:
            self.realignment = _stacked_realignment(self.sequences, logits)
        is_steered = [_guide(sequence).is_steered for sequence in self.sequences]
        keys = list(keys)
        for index, forbidden in self._draw_openings(streams, self.realignment, allowed, keys).items():
            if forbidden is None:  # a structure begins: drawn unsteered with the same key, the token is the same again
                is_steered[index] = False
            else:
                mask = allowed[index]
                allowed[index] = ~forbidden if mask is None else ~forbidden & mask
                keys[index] ^= _SECOND_DRAW
        self.constraints = list(zip(allowed, is_steered, strict=True))
        realignment = self.realignment.where(torch.tensor(is_steered, device=logits.device))
        log_probs = realignment.realign(streams, allowed=_stacked_masks(allowed, logits))
        return log_probs, keys

    def _draw_openings(
        self,
        streams: Tensor,
        realignment: BatchedRealignment,
        allowed: abc.Sequence[Tensor | None],
        keys: abc.Sequence[int],
    ) -> dict[int, Tensor | None]:
        """Decide by a draw without steering whether a structure begins here, such as a tool call.

        Returns:
            By index in the group, for each sequence in which a structure may begin: `None` if it begins; otherwise the
            tokens that would begin it, bool `(V,)`, which the steered draw must not choose.
        """
        openings = [_guide(sequence).opening() for sequence in self.sequences]
        undecided = {index: opening for index, opening in enumerate(openings) if opening is not None}
        if not undecided:
            return {}
        indices = list(undecided)
        sequences = [self.sequences[index] for index in indices]
        unsteered = realignment.select(indices).where(
            torch.zeros(len(indices), dtype=torch.bool, device=streams.device)
        )
        masks = _stacked_masks([allowed[index] for index in indices], streams)
        log_probs = unsteered.realign(streams[indices], allowed=masks)
        drawn = _sample(log_probs, sequences, [keys[index] for index in indices]).tolist()
        return {
            index: None if opening[token_id] else opening
            for (index, opening), token_id in zip(undecided.items(), drawn, strict=True)
        }


def _stacked_realignment(sequences: abc.Sequence[Sequence], logits: Tensor) -> BatchedRealignment:
    requests = [sequence.request for sequence in sequences]
    configs = [request.realignment for request in requests]
    mixtures = [request.mixture.first(request.num_mixed) for request in requests]
    return BatchedRealignment.stack(configs, mixtures, logits)


def _streams(logits: Tensor, rows: list[int], num_sequences: int) -> Tensor:
    """Return logits by sequence and stream, `(B, S, V)`. It is a view if the rows are consecutive."""
    first, number = rows[0], len(rows)
    is_consecutive = rows == list(range(first, first + number))
    selected = logits[first : first + number] if is_consecutive else logits[rows]
    return selected.view(num_sequences, -1, logits.shape[-1])


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _guide(sequence: Sequence) -> Guide:
    assert sequence.guide is not None, "a guided group holds only sequences with guides"
    return sequence.guide


def _allowed(sequence: Sequence) -> Tensor | None:
    """Return the allowed tokens; `None` allows all. If the guide fails, end its sequence and return `None`."""
    try:
        return None if sequence.is_finished else _guide(sequence).allowed(sequence.num_left)
    except Exception as error:  # noqa: BLE001
        _fail(sequence, error)
        return None


def _fail(sequence: Sequence, error: Exception) -> None:
    """End a sequence whose guide has failed; the others in the batch continue."""
    if not isinstance(error, AmuletError):
        failure = GenerationError(f"The guide of the answer has failed: {type(error).__name__}: {error}")
        failure.__cause__, error = error, failure
    sequence.finish("error", error)


def _stacked_masks(allowed: abc.Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """Return the masks of all rows, bool `(B, V)`; `None` if every row allows all tokens."""
    if all(mask is None for mask in allowed):
        return None
    all_allowed = torch.ones(like.shape[-1], dtype=torch.bool)
    return torch.stack([all_allowed if mask is None else mask for mask in allowed]).to(like.device)


def _masked(logits: Tensor, allowed: abc.Sequence[Tensor | None]) -> Tensor:
    """Set the logits of tokens that are not allowed to −inf, `(B, V)`.

    A row in which all allowed tokens are −inf becomes uniform over them; a row with NaN becomes NaN.
    """
    masks = _stacked_masks(allowed, logits)
    if masks is None:
        return logits
    possible = masks & (logits > -torch.inf)
    has_possible = possible.any(-1, keepdim=True)
    kept = torch.where(has_possible, logits, 0.0).masked_fill(~torch.where(has_possible, possible, masks), -torch.inf)
    return torch.where(logits.isnan().any(-1, keepdim=True), torch.nan, kept)
