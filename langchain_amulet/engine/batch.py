"""The requests that draw a token together: streams combined, one token each."""

from collections import defaultdict
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from langchain_amulet.engine.guide import Guide
from langchain_amulet.engine.sampling import penalise, sample
from langchain_amulet.engine.sequence import Sequence, TokenLogprobs
from langchain_amulet.exceptions import AmuletError, GenerationError, NumericalError
from langchain_amulet.realignment import realign

_NOT_FINITE = (
    "The model's logits are NaN or leave no token to choose. In float16, load it in bfloat16 or float32 "
    '(model_kwargs={"dtype": "float32"}); else its weights may be damaged.'
)


_SECOND_DRAW = 0x5DEECE66D  # makes another key of a key


class Batch:
    """Draws the next token of several sequences.

    Sequences of equally many streams and the same kinds of guards are combined in one call, so that what one of them
    asks for costs the others nothing.

    Args:
        sequences: Whose tokens to draw.
        rows: For each, the rows of the logits that belong to its streams, the base stream first.
    """

    def __init__(self, sequences: Rows[Sequence], rows: Rows[Rows[int]]) -> None:
        self.sequences = list(sequences)
        alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, sequence in enumerate(sequences):
            realignment = sequence.request.realignment
            guards = (realignment.plausibility > 0, realignment.max_kl is not None, realignment.nucleus is not None)
            is_guided = sequence.guide is not None
            alike[(sequence.num_streams, is_guided, *(guards if sequence.num_streams > 1 else ()))].append(index)
        self._parts = [
            (_GuidedPart if sequences[members[0]].guide else _Part)(
                members, [sequences[index] for index in members], [row for index in members for row in rows[index]]
            )
            for members in alike.values()
        ]

    def draw(self, logits: Tensor) -> None:
        """Append one token to each sequence, or end it with the error that keeps it from having one.

        Args:
            logits: Next-token logits of all rows, `(rows, V)`.
        """
        keys = [sequence.next_key() for sequence in self.sequences]
        scores = self._scores(logits, keys)
        tokens = _sample(scores, self.sequences, keys)
        is_sound = scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).isfinite() & scores.amax(-1).isfinite()
        drawn: list[list[int]] = torch.stack([tokens, is_sound.to(tokens.dtype)]).tolist()  # one wait for the device
        for index, (sequence, token_id, sound) in enumerate(zip(self.sequences, *drawn, strict=True)):
            if sound:
                _append(sequence, token_id, scores[index])
            else:
                sequence.is_sound = False
                sequence.finish("error", NumericalError(_NOT_FINITE))

    def _scores(self, logits: Tensor, keys: list[int]) -> Tensor:
        """The realigned log-probabilities of each sequence, or the logits of a stream that is alone, `(B, V)`."""
        if len(self._parts) == 1:
            return self._parts[0].scores(logits, keys)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        scores = torch.empty(len(self.sequences), logits.shape[-1], dtype=dtype, device=logits.device)
        for part in self._parts:
            scores[part.members] = part.scores(logits, keys)
        return scores


def _sample(scores: Tensor, sequences: Rows[Sequence], keys: Rows[int]) -> Tensor:
    return sample(_penalised(scores, sequences), [sequence.request.sampling for sequence in sequences], keys)


def _penalised(scores: Tensor, sequences: Rows[Sequence]) -> Tensor:
    penalties = [sequence.request.sampling.repetition_penalty for sequence in sequences]
    if all(penalty == 1 for penalty in penalties):
        return scores
    rows = [
        row if penalty == 1 else penalise(row, sequence.seen_ids(row.device), penalty)
        for row, sequence, penalty in zip(scores, sequences, penalties, strict=True)
    ]
    return torch.stack(rows)


def _append(sequence: Sequence, token_id: int, scores: Tensor) -> None:
    """Append what was drawn, or what the guide puts in its place."""
    if sequence.guide is not None and not sequence.is_finished:
        try:
            token_id = sequence.guide.accept(token_id, sequence.num_left)
        except Exception as error:  # noqa: BLE001
            _fail(sequence, error)
            return
    sequence.append(token_id, _logprobs(scores, token_id, sequence.request.logprobs))


def _logprobs(scores: Tensor, token_id: int, num_top: int | None) -> TokenLogprobs | None:
    if num_top is None:
        return None
    log_probs = scores.log_softmax(-1)
    values, ids = log_probs.topk(min(num_top, len(log_probs)))
    top = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token_id, log_probs[token_id].item(), top)


@dataclass(slots=True)
class _Part:
    """Sequences of equally many streams that may say anything."""

    members: list[int]  # their places in the batch
    sequences: list[Sequence]
    rows: list[int]  # all of their rows, sequence by sequence
    numbers: tuple[Tensor, ...] | None = None  # as _numbers tells them, on the device of the logits

    def scores(self, logits: Tensor, _keys: list[int]) -> Tensor:
        """One score per token, `(B, V)`."""
        streams = _streams(logits, self.rows, len(self.sequences))
        if streams.shape[1] == 1:
            return streams[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
        if self.numbers is None:
            self.numbers = _numbers(self.sequences, logits)
        return _realigned(streams, self.numbers, self.sequences[0])


@dataclass(slots=True)
class _GuidedPart:
    """Sequences of equally many streams whose guides say what they may hold."""

    members: list[int]
    sequences: list[Sequence]
    rows: list[int]

    def scores(self, logits: Tensor, keys: list[int]) -> Tensor:
        """One score per token, `(B, V)`; keys that were used up are replaced."""
        streams = _streams(logits, self.rows, len(self.sequences))
        allowed = [_allowed(sequence) for sequence in self.sequences]
        if streams.shape[1] == 1:
            return _masked(streams[:, 0].to(torch.promote_types(logits.dtype, torch.float32)), allowed)
        numbers = _numbers(self.sequences, logits)
        is_steered = torch.tensor([_guide(sequence).is_steered for sequence in self.sequences], device=logits.device)
        is_steered &= ~self._decide(streams, numbers, allowed, keys)
        return _realigned(streams, _switched(numbers, is_steered), self.sequences[0], _stacked(allowed, logits))

    def _decide(
        self, streams: Tensor, numbers: tuple[Tensor, ...], allowed: list[Tensor | None], keys: list[int]
    ) -> Tensor:
        """Draw at guidance scale 1 whether a structure begins; where not, forbid it to the draw that style acts on.

        Returns:
            Where one begins, bool `(B,)`; the second draw gives the same token there, as scores and keys are the same.
        """
        begins = torch.zeros(len(self.sequences), dtype=torch.bool, device=streams.device)
        opening = [_guide(sequence).opening() for sequence in self.sequences]
        undecided = [index for index, mask in enumerate(opening) if mask is not None]
        if not undecided:
            return begins
        sequences = [self.sequences[index] for index in undecided]
        off = torch.zeros(len(undecided), dtype=torch.bool, device=streams.device)
        some = tuple(each[undecided] for each in numbers)
        masks = _stacked([allowed[index] for index in undecided], streams)
        scores = _realigned(streams[undecided], _switched(some, off), sequences[0], masks)
        drawn = _sample(scores, sequences, [keys[self.members[index]] for index in undecided]).tolist()
        for index, token_id in zip(undecided, drawn, strict=True):
            mask, also = opening[index], allowed[index]
            assert mask is not None, "only the undecided were drawn for"
            if mask[token_id]:
                begins[index] = True
            else:
                allowed[index] = ~mask if also is None else ~mask & also
                keys[self.members[index]] ^= _SECOND_DRAW
        return begins


def _streams(logits: Tensor, rows: list[int], num_sequences: int) -> Tensor:
    """Logits by sequence and stream, `(B, K + 1, V)`; a view where the rows lie in order, as they mostly do."""
    first, number = rows[0], len(rows)
    is_in_order = rows == list(range(first, first + number))
    mine = logits[first : first + number] if is_in_order else logits[rows]
    return mine.view(num_sequences, -1, logits.shape[-1])


def _realigned(streams: Tensor, numbers: tuple[Tensor, ...], first: Sequence, allowed: Tensor | None = None) -> Tensor:
    """The log-probabilities of sequences with the same kinds of guards as the first, `(B, V)`."""
    w, v, plausibility, max_kl, nucleus, nucleus_temperature = numbers
    config = first.request.realignment
    return realign(
        streams[:, 0],
        streams[:, 1:],
        w,
        weights=v,
        allowed=allowed,
        plausibility=plausibility if config.plausibility > 0 else 0.0,
        max_kl=max_kl if config.max_kl is not None else None,
        nucleus=nucleus if config.nucleus is not None else None,
        nucleus_temperature=nucleus_temperature,
    )


def _numbers(sequences: Rows[Sequence], logits: Tensor) -> tuple[Tensor, ...]:
    """Of each sequence: w, v, and what its guards are set to."""
    requests = [sequence.request for sequence in sequences]
    configs = [request.realignment for request in requests]
    values = (
        [config.guidance_scale for config in configs],
        [list(request.weights) for request in requests],
        [config.plausibility for config in configs],
        [config.max_kl or 0.0 for config in configs],
        [config.nucleus or 1.0 for config in configs],
        [config.nucleus_temperature for config in configs],
    )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return tuple(torch.tensor(each, dtype=dtype, device=logits.device) for each in values)


def _switched(numbers: tuple[Tensor, ...], is_steered: Tensor) -> tuple[Tensor, ...]:
    """The numbers where style acts; elsewhere guidance scale 1, or less if less was asked for, without guards."""
    w, v, plausibility, max_kl, nucleus, nucleus_temperature = numbers
    return (
        torch.where(is_steered, w, w.clamp(0.0, 1.0)),
        v,
        torch.where(is_steered, plausibility, 0.0),
        torch.where(is_steered, max_kl, torch.inf),
        torch.where(is_steered, nucleus, 1.0),
        nucleus_temperature,
    )


def _guide(sequence: Sequence) -> Guide:
    assert sequence.guide is not None, "it belongs to those with guides"
    return sequence.guide


def _allowed(sequence: Sequence) -> Tensor | None:
    """What may come next; anything once the guide has failed, since the sequence has ended then."""
    try:
        return None if sequence.is_finished else _guide(sequence).allowed(sequence.num_left)
    except Exception as error:  # noqa: BLE001
        _fail(sequence, error)
        return None


def _fail(sequence: Sequence, error: Exception) -> None:
    """What goes wrong in a guide ends its own answer, and no other in the batch."""
    if not isinstance(error, AmuletError):
        failure = GenerationError(f"What leads the answer has failed: {type(error).__name__}: {error}")
        failure.__cause__, error = error, failure
    sequence.finish("error", error)


def _stacked(allowed: Rows[Tensor | None], like: Tensor) -> Tensor | None:
    """Masks of all rows, bool `(B, V)`; `None` if all allow everything."""
    if all(mask is None for mask in allowed):
        return None
    everything = torch.ones(like.shape[-1], dtype=torch.bool)
    return torch.stack([everything if mask is None else mask for mask in allowed]).to(like.device)


def _masked(scores: Tensor, allowed: Rows[Tensor | None]) -> Tensor:
    """Scores of the allowed tokens; where the model gives none of them a chance, all of them have the same."""
    masks = _stacked(allowed, scores)
    if masks is None:
        return scores
    possible = masks & (scores > -torch.inf)
    is_possible = possible.any(-1, keepdim=True)
    kept = torch.where(is_possible, scores, 0.0).masked_fill(~torch.where(is_possible, possible, masks), -torch.inf)
    return torch.where(scores.isnan().any(-1, keepdim=True), torch.nan, kept)
