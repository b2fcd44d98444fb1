"""The realignment of several requests at once, each with its own config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langchain_amulet.realignment.coefficients import StreamCoefficients
from langchain_amulet.realignment.config import RealignmentConfig
from langchain_amulet.realignment.guard_specs import GuardSpec, guard_specs
from langchain_amulet.realignment.kernel import realign_streams


@dataclass(frozen=True, slots=True)
class BatchedRealignment:
    """The parameters of B configs with the same active guards, as tensors with one row per config.

    Turning a guard on for one row costs time in all rows of a batch. So configs are only batched with others that have
    the same `active_guards`; the values may differ.
    """

    target: Tensor
    """The coefficients of the target, `(B, S)`."""
    reference: Tensor
    """The coefficients of the reference, `(B, S)`."""
    unsteered: Tensor
    """The coefficients of the target where style is off, `(B, S)`."""
    guards: Mapping[str, Tensor]
    """The value of each guard that is on, and of its parameters, `(B,)`."""
    specs: Mapping[str, GuardSpec]
    """The properties of all guards, by name."""

    @classmethod
    def stack(
        cls, configs: Sequence[RealignmentConfig], coefficients: Sequence[StreamCoefficients], like: Tensor
    ) -> "BatchedRealignment":
        """Return the parameters as tensors on the device of `like`, in its dtype but at least float32.

        Args:
            configs: B configs with the same `active_guards`.
            coefficients: Those of S streams for each config.
            like: A tensor of logits, for device and dtype.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)

        def tensor(values: Sequence[object]) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=like.device)

        active = [config.active_guards for config in configs]
        return cls(
            tensor([each.target for each in coefficients]),
            tensor([each.reference for each in coefficients]),
            tensor([each.unsteered for each in coefficients]),
            {name: tensor([guards[name] for guards in active]) for name in active[0]},
            guard_specs(configs[0]),
        )

    def select(self, rows: Sequence[int]) -> "BatchedRealignment":
        """Return the parameters of the rows with these indices."""
        indices = list(rows)
        guards = {name: values[indices] for name, values in self.guards.items()}
        return replace(
            self,
            target=self.target[indices],
            reference=self.reference[indices],
            unsteered=self.unsteered[indices],
            guards=guards,
        )

    def where(self, is_steered: Tensor) -> "BatchedRealignment":
        """Return the same parameters where `is_steered`, bool `(B,)`; elsewhere the unsteered target without guards."""
        guards = {name: self._or_neutral(name, values, is_steered) for name, values in self.guards.items()}
        return replace(self, target=torch.where(is_steered.unsqueeze(-1), self.target, self.unsteered), guards=guards)

    def _or_neutral(self, name: str, values: Tensor, is_steered: Tensor) -> Tensor:
        neutral = self.specs[name].neutral
        return values if neutral is None else torch.where(is_steered, values, neutral)

    def realign(self, logits: Tensor, *, allowed: Tensor | None = None) -> Tensor:
        """Return the realigned log-probabilities in nats, `(B, V)`; see `kernel.realign_streams`.

        Args:
            logits: `(B, S, V)`.
            allowed: Tokens that may be chosen, bool `(B, V)`. `None` allows all.
        """
        return realign_streams(logits, self.target, self.reference, allowed=allowed, guards=self.guards)
