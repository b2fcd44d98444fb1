"""The realignment of several requests at once, each with its own config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langchain_amulet.realignment.config import RealignmentConfig
from langchain_amulet.realignment.guard_specs import GuardSpec, guard_specs
from langchain_amulet.realignment.kernel import realign


@dataclass(frozen=True, slots=True)
class BatchedRealignment:
    """The parameters of B configs with the same active guards, as tensors with one row per config.

    Turning a guard on for one row costs time in all rows of a batch. So configs are only batched with others that have
    the same `active_guards`; the values may differ.
    """

    guidance_scale: Tensor
    """w, `(B,)`."""
    weights: Tensor
    """v, `(B, K)`."""
    guards: Mapping[str, Tensor]
    """The value of each guard that is on, and of its parameters, `(B,)`."""
    specs: Mapping[str, GuardSpec]
    """The properties of all guards, by name."""

    @classmethod
    def stack(
        cls, configs: Sequence[RealignmentConfig], weights: Sequence[Sequence[float]], like: Tensor
    ) -> "BatchedRealignment":
        """Return the parameters as tensors on the device of `like`, in its dtype but at least float32.

        Args:
            configs: B configs with the same `active_guards`.
            weights: v of each config, B lists of K numbers.
            like: A tensor of logits, for device and dtype.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)

        def tensor(values: Sequence[object]) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=like.device)

        active = [config.active_guards for config in configs]
        return cls(
            tensor([config.guidance_scale for config in configs]),
            tensor([list(row) for row in weights]),
            {name: tensor([guards[name] for guards in active]) for name in active[0]},
            guard_specs(configs[0]),
        )

    def select(self, rows: Sequence[int]) -> "BatchedRealignment":
        """Return the parameters of the rows with these indices."""
        indices = list(rows)
        guards = {name: values[indices] for name, values in self.guards.items()}
        return BatchedRealignment(self.guidance_scale[indices], self.weights[indices], guards, self.specs)

    def where(self, is_steered: Tensor) -> "BatchedRealignment":
        """Return the same parameters where `is_steered`, bool `(B,)`; elsewhere clamp w to [0, 1] and drop the guards.

        A row that is not steered follows the prompted policy, or the configured mixture if w is below 1.
        """
        guards = {name: self._or_neutral(name, values, is_steered) for name, values in self.guards.items()}
        scale = torch.where(is_steered, self.guidance_scale, self.guidance_scale.clamp(0.0, 1.0))
        return BatchedRealignment(scale, self.weights, guards, self.specs)

    def _or_neutral(self, name: str, values: Tensor, is_steered: Tensor) -> Tensor:
        neutral = self.specs[name].neutral
        return values if neutral is None else torch.where(is_steered, values, neutral)

    def realign(self, base_logits: Tensor, pref_logits: Tensor, *, allowed: Tensor | None = None) -> Tensor:
        """Return the realigned log-probabilities in nats, `(B, V)`; see `kernel.realign`.

        Args:
            base_logits: `(B, V)`.
            pref_logits: `(B, K, V)`.
            allowed: Tokens that may be chosen, bool `(B, V)`. `None` allows all.
        """
        return realign(
            base_logits, pref_logits, self.guidance_scale, weights=self.weights, allowed=allowed, **self.guards
        )
