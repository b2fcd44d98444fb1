"""The requests that draw a token together: streams combined, one token each."""

from collections import defaultdict
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from langchain_amulet.engine.sampling import penalise, sample
from langchain_amulet.engine.sequence import Sequence, TokenLogprobs
from langchain_amulet.exceptions import NumericalError
from langchain_amulet.realignment import realign

_NOT_FINITE = (
    "The model's logits are NaN or leave no token to choose. In float16, load it in bfloat16 or float32 "
    '(model_kwargs={"dtype": "float32"}); else its weights may be damaged.'
)


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
            guards = (realignment.plausibility > 0, realignment.max_kl is not None)
            alike[(sequence.num_streams, *(guards if sequence.num_streams > 1 else ()))].append(index)
        self._parts = [
            _Part(members, [sequences[index] for index in members], [row for index in members for row in rows[index]])
            for members in alike.values()
        ]

    def draw(self, logits: Tensor) -> None:
        """Append one token to each sequence, or end it with the error that keeps it from having one.

        Args:
            logits: Next-token logits of all rows, `(rows, V)`.
        """
        scores = self._scores(logits)
        sampling = [sequence.request.sampling for sequence in self.sequences]
        keys = [sequence.next_key() for sequence in self.sequences]
        tokens = sample(self._penalised(scores), sampling, keys)
        is_sound = scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).isfinite() & scores.amax(-1).isfinite()
        drawn: list[list[int]] = torch.stack([tokens, is_sound.to(tokens.dtype)]).tolist()  # one wait for the device
        for index, (sequence, token_id, sound) in enumerate(zip(self.sequences, *drawn, strict=True)):
            if sound:
                sequence.append(token_id, self._logprobs(scores[index], token_id, sequence.request.logprobs))
            else:
                sequence.is_sound = False
                sequence.finish("error", NumericalError(_NOT_FINITE))

    def _scores(self, logits: Tensor) -> Tensor:
        """The realigned log-probabilities of each sequence, or the logits of a stream that is alone, `(B, V)`."""
        if len(self._parts) == 1:
            return self._parts[0].scores(logits)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        scores = torch.empty(len(self.sequences), logits.shape[-1], dtype=dtype, device=logits.device)
        for part in self._parts:
            scores[part.members] = part.scores(logits)
        return scores

    def _penalised(self, scores: Tensor) -> Tensor:
        penalties = [sequence.request.sampling.repetition_penalty for sequence in self.sequences]
        if all(penalty == 1 for penalty in penalties):
            return scores
        rows = [
            row if penalty == 1 else penalise(row, sequence.seen_ids(row.device), penalty)
            for row, sequence, penalty in zip(scores, self.sequences, penalties, strict=True)
        ]
        return torch.stack(rows)

    @staticmethod
    def _logprobs(scores: Tensor, token_id: int, num_top: int | None) -> TokenLogprobs | None:
        if num_top is None:
            return None
        log_probs = scores.log_softmax(-1)
        values, ids = log_probs.topk(min(num_top, len(log_probs)))
        top = list(zip(ids.tolist(), values.tolist(), strict=True))
        return TokenLogprobs(token_id, log_probs[token_id].item(), top)


@dataclass(slots=True)
class _Part:
    """Sequences of equally many streams."""

    members: list[int]  # their places in the batch
    sequences: list[Sequence]
    rows: list[int]  # all of their rows, sequence by sequence
    numbers: tuple[Tensor, ...] | None = None  # w, v, plausibility and max_kl on the device of the logits

    def scores(self, logits: Tensor) -> Tensor:
        """One score per token, `(B, V)`."""
        streams = self._streams(logits)
        if streams.shape[1] == 1:
            return streams[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
        if self.numbers is None:
            self.numbers = self._numbers(logits)
        w, v, plausibility, max_kl = self.numbers
        first = self.sequences[0].request.realignment
        return realign(
            streams[:, 0],
            streams[:, 1:],
            w,
            weights=v,
            plausibility=plausibility if first.plausibility > 0 else 0.0,
            max_kl=max_kl if first.max_kl is not None else None,
        )

    def _streams(self, logits: Tensor) -> Tensor:
        """Logits by sequence and stream, `(B, K + 1, V)`; a view where the rows lie in order, as they mostly do."""
        first, number = self.rows[0], len(self.rows)
        is_in_order = self.rows == list(range(first, first + number))
        mine = logits[first : first + number] if is_in_order else logits[self.rows]
        return mine.view(len(self.sequences), -1, logits.shape[-1])

    def _numbers(self, logits: Tensor) -> tuple[Tensor, ...]:
        requests = [sequence.request for sequence in self.sequences]
        configs = [request.realignment for request in requests]
        values = (
            [config.guidance_scale for config in configs],
            [list(request.weights) for request in requests],
            [config.plausibility for config in configs],
            [config.max_kl or 0.0 for config in configs],
        )
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return tuple(torch.tensor(each, dtype=dtype, device=logits.device) for each in values)
