"""A guard declared as a field of a config reaches everything that acts on all guards."""

from dataclasses import dataclass, field

import pytest
import torch

from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.params import Request
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig, StreamCoefficients, batched, realign, realign_streams
from langchain_amulet.realignment.batched import BatchedRealignment
from langchain_amulet.realignment.guard_specs import GuardSpec, guard_metadata

LOGITS = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
COEFFICIENTS = StreamCoefficients.of_weights(3.0, [1.0])


@dataclass(frozen=True, slots=True)
class ConfigWithAnotherGuard(RealignmentConfig):
    """A config with a guard that does not exist."""

    min_entropy: float | None = field(
        default=None, metadata=guard_metadata(GuardSpec(off=None, neutral=0.0, low=0, remedy="It is in nats."))
    )


PLAIN = ConfigWithAnotherGuard(plausibility=0.0)
GUARDED = ConfigWithAnotherGuard(3.0, plausibility=0.0, min_entropy=0.7)


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """The guards of each call of `realign_streams`."""
    seen = []

    def recorded(*arguments, guards, **keywords):
        seen.append(guards)
        known = {name: value for name, value in guards.items() if name != "min_entropy"}
        return realign_streams(*arguments, guards=known, **keywords)

    monkeypatch.setattr(batched, "realign_streams", recorded)
    return seen


def test_a_new_guard_is_checked_named_and_turned_off():
    assert GUARDED.active_guards == {"min_entropy": 0.7}
    assert GUARDED.without_guards(1.0) == ConfigWithAnotherGuard(1.0, plausibility=0.0)
    with pytest.raises(InvalidParameterError, match=r"min_entropy.*It is in nats"):
        ConfigWithAnotherGuard(min_entropy=-1.0)


def test_a_new_guard_reaches_realign_for_its_own_requests_only(calls):
    sequences = [Sequence(Request([[1], [2]], [1.0], config), max_length=9) for config in (PLAIN, GUARDED)]
    Batch(sequences, [[0, 1], [2, 3]]).draw(LOGITS)
    assert calls == [{}, {"min_entropy": torch.tensor([0.7])}]


def test_a_new_guard_is_neutral_where_steering_is_off(calls):
    both = BatchedRealignment.stack([GUARDED, GUARDED], [COEFFICIENTS, COEFFICIENTS], LOGITS)
    both.where(torch.tensor([True, False])).realign(LOGITS.view(2, 2, -1))
    assert calls[0]["min_entropy"].tolist() == pytest.approx([0.7, 0.0])


def test_each_row_without_steering_equals_its_config_without_guards():
    config = RealignmentConfig(3.0, max_kl=0.05, nucleus=0.5, nucleus_temperature=0.5, entropy_floor=0.9)
    parameters = BatchedRealignment.stack([config, config], [COEFFICIENTS, COEFFICIENTS], LOGITS)
    mixed = parameters.where(torch.tensor([True, False])).realign(LOGITS.view(2, 2, -1))
    off = config.without_guards(1.0)
    torch.testing.assert_close(mixed[0], realign(LOGITS[0], LOGITS[1], 3.0, **config.active_guards))
    torch.testing.assert_close(mixed[1], realign(LOGITS[2], LOGITS[3], off.guidance_scale, **off.active_guards))


def test_rows_without_steering_mix_by_the_unsteered_coefficients():
    values = StreamCoefficients((-2.0, 2.5, 0.5), (0.0, 0.9, 0.1), (0.0, 1.0, 0.0))
    parameters = BatchedRealignment.stack([RealignmentConfig(3.0, max_kl=0.1)], [values], LOGITS)
    unsteered = parameters.where(torch.tensor([False])).realign(LOGITS[None, :3])
    torch.testing.assert_close(unsteered[0], LOGITS[1].log_softmax(-1))


def test_selected_rows_keep_their_parameters():
    configs = [RealignmentConfig(scale, plausibility=beta) for scale, beta in ((2.0, 0.1), (3.0, 0.2))]
    other = StreamCoefficients((-0.5, 1.5), (0.0, 1.0), (0.5, 0.5))
    second = BatchedRealignment.stack(configs, [COEFFICIENTS, other], LOGITS).select([1])
    for name in ("target", "reference", "unsteered"):
        assert getattr(second, name).tolist() == [list(getattr(other, name))]
    assert second.guards["plausibility"].tolist() == pytest.approx([0.2])
