"""The arithmetic of the benchmarks: medians, ratios, shares of the bandwidth, and replayed drafts."""

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.benchmarks import costs, llama_cpp, side_by_side, variants
from tests.benchmarks.contenders import GENERATE, PLAIN, Contender, NotAvailableError
from tests.benchmarks.copying import replayed
from tests.benchmarks.generate import left_padded
from tests.benchmarks.machine import Buffer, processor_of, read_gb_per_s, weight_bytes
from tests.benchmarks.side_by_side import Timing, measure, measurements, timing_of
from tests.benchmarks.timing import ratio
from tests.fakes.models import tiny_model

CPU = torch.device("cpu")
CPUINFO = (
    "model name\t: Some Processor\ncpu family\t: 6\nmodel\t\t: 207\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"
)


def test_a_ratio_is_the_median_of_the_ratios_in_the_same_round():
    assert ratio([1.0, 2.0, 9.0], [4.0, 1.0, 3.0]) == 2  # the ratio of the medians is 2/3


def test_times_of_a_round_count_until_the_last_user_has_the_last_token():
    timing = timing_of(10.0, [[11.0, 12.0, 13.0], [12.0, 14.0, 16.0]], num_tokens=3)
    assert (timing.total, timing.first, timing.step) == (6000, 1500, 1500)


def test_a_contender_that_tells_only_its_end_has_no_time_of_a_step():
    assert timing_of(10.0, [[11.0]], num_tokens=3) == Timing(1000, None, None)


def test_a_share_is_the_time_of_reading_against_the_time_of_a_step():
    contender = Contender("ours, eager", PLAIN, lambda _: [], weight_bytes=7, num_reads=2)
    rounds = [Timing(100, 10, 8.0), Timing(100, 10, 10.0), Timing(100, 10, 40.0)]
    [found] = measurements({(contender, 1): rounds}, {7: [2.0, 3.0, 4.0]}, "float32", 10)
    assert found.share_of_bandwidth == pytest.approx(2 * 0.25)  # ratios 0.25, 0.3, 0.1
    assert found.weight_bytes == 14


def test_medians_and_ratios_of_a_contender():
    generate, mine = (Contender(name, PLAIN, lambda _: []) for name in (GENERATE, "ours"))
    times = {
        (generate, 1): [Timing(total, None, None) for total in (10, 20, 30)],
        (mine, 1): [Timing(total, None, None) for total in (5, 40, 15)],
        (mine, 4): [Timing(total, None, None) for total in (10, 80, 30)],
    }
    _, one, four = measurements(times, {}, "float32", 10)
    assert (one.ms_per_token, one.against_generate, one.throughput_against_fewest) == (1.5, 0.5, 1)
    assert (four.ms_per_token, four.against_generate, four.throughput_against_fewest) == (3, None, 2)


def test_a_contender_that_fails_in_the_warm_up_is_left_out_and_told():
    def fail(_):
        msg = "no kernel"
        raise RuntimeError(msg)

    clock = itertools.count(1e9)
    works = Contender("works", PLAIN, lambda _: [[next(clock)]], most_users=1)
    fails = Contender("fails", PLAIN, lambda n: [[next(clock)]] if n == 1 else fail(n))
    times, _, failures = measure([works, fails], [1, 2], num_tokens=1, num_rounds=1)
    measured = [(contender.engine, users, len(rounds)) for (contender, users), rounds in times.items()]
    assert measured == [("works", 1, 1), ("fails", 1, 1)]
    assert failures == {"fails: plain, users: 2": "RuntimeError: no kernel"}


def test_reading_twice_as_much_takes_longer_and_the_bandwidth_is_sane():
    small, large = (min(Buffer(size, CPU).read_ms() for _ in range(3)) for size in (2**16, 2**24))
    assert large > small
    assert 0.01 < read_gb_per_s(CPU) < 10_000


def test_a_buffer_longer_than_the_limit_is_scaled(monkeypatch):
    monkeypatch.setattr("tests.benchmarks.machine.milliseconds", lambda _: 1.0)
    assert Buffer(2**24, CPU).read_ms() == 1
    assert Buffer(2**28, CPU).read_ms() == 16


def test_weights_count_once_and_an_untied_embedding_does_not():
    model = tiny_model("llama")
    model.extra = torch.zeros(5, dtype=torch.float32)  # packed weights are plain attributes
    table: Any = model.get_input_embeddings()
    every = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert weight_bytes(model) == every - table.weight.nbytes + 20
    model.get_output_embeddings().weight = table.weight
    assert weight_bytes(model) == every - table.weight.nbytes + 20


def test_the_kind_of_cpu_is_read_from_linux():
    name, flags = processor_of(CPUINFO)
    assert name == "Some Processor, family 6 model 207"
    assert flags == ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
    assert all(processor_of(""))  # elsewhere, what Python and torch say


def test_prompts_of_a_batch_are_padded_on_the_left():
    ids, mask = left_padded([[5, 6, 7], [8]], CPU)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_replayed_drafts_follow_what_was_read_before():
    assert (
        replayed([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], num_draft=8) == 7 / 4
    )  # three until the n-gram is there
    assert replayed([1, 2, 3], [4, 5, 6, 7], num_draft=8) == 1
    assert replayed([9, 9, 9, 9], [9] * 8, num_draft=1) == 2


def test_the_noise_of_two_equal_settings_is_shown_beside_the_ratio():
    rows = costs.rows_of({costs.REFERENCE: [10.0, 10.0, 10.0], "w = 2": [9.0, 10.0, 12.0]}, num_tokens=10)
    assert rows[1] == ["w = 2", 1.0, "1.000x", "0.900x to 1.200x"]


def test_an_option_that_this_build_lacks_is_not_available():
    with pytest.raises(NotAvailableError, match=r"no ChatAmulet\(no_such_field=...\)"):
        variants.loaded_by_us("nowhere", "float32", {"no_such_field": 1})
    with pytest.raises(NotAvailableError, match=r"no EngineConfig\(no_such_field=...\)"):
        variants.check_engine({"no_such_field": 1})


def test_llama_cpp_draws_as_many_tokens_from_an_empty_cache(tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(reset=lambda: calls.append("reset"), generate=lambda *_, **__: iter(range(100)))
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=lambda *_, **__: fake))
    (tmp_path / "model.gguf").write_bytes(b"12345")
    [contender] = llama_cpp.contenders(tmp_path / "model.gguf", [1, 2], num_tokens=6)
    assert [len(stamps) for stamps in contender.answer(1)] == [6]
    assert (calls, contender.weight_bytes, contender.most_users) == (["reset"], 5, 1)


def test_llama_cpp_that_is_not_installed_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(NotAvailableError, match="pip install llama-cpp-python"):
        llama_cpp.contenders(tmp_path / "model.gguf", [1], num_tokens=1)


def test_variants_of_the_issue_are_measured_by_default():
    assert variants.DEFAULT_VARIANTS == ("eager", "packed", "compiled", "int8", "int4", "speculative")
    assert side_by_side.DEFAULT_USERS == (1, 4, 16, 32)
