"""Settings for all tests."""

import os
import tempfile
from pathlib import Path
from weakref import WeakValueDictionary

# Set before platformdirs and transformers are imported: tests use no network and write no key to the user's data
# directory. The converted weights of the packaged model stay in the user's cache, because converting takes a minute.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="amulet-tests-")

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("campaign", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

import pytest  # noqa: E402
import torch  # noqa: E402
from langchain_core.caches import InMemoryCache  # noqa: E402

from langchain_amulet.models import defaults, registry  # noqa: E402
from tests.fakes import figures  # noqa: E402

DEFAULT_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say where the tests run and on what data."""
    parser.addoption("--data-dir", type=Path, help="folder with the four question sets that Amulet's authors published")
    parser.addoption(
        "--default-dtype",
        choices=sorted(DEFAULT_DTYPES),
        help="dtype in which models load by default on the CPU, in place of the one that suits this CPU; "
        "processes that a test starts are not affected",
    )
    parser.addoption("--threads", type=int, help="number of torch threads; the default is 1 with pytest-xdist")


def pytest_configure(config: pytest.Config) -> None:
    """Apply `--default-dtype` and `--threads`, in each worker too, and add up the figures of the campaign."""
    config.pluginmanager.register(figures)
    if dtype := config.getoption("--default-dtype"):
        _force_default_dtype(pytest.MonkeyPatch(), dtype)
    if threads := config.getoption("--threads"):
        torch.set_num_threads(threads)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the other core belongs to the other worker


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test hours in a campaign, in which a fuzzer runs for longer than any other test may."""
    if figures.is_full(config):
        for item in items:
            item.add_marker(pytest.mark.timeout(7200))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked `default_dtype` once per dtype, or in the one that `--default-dtype` names."""
    if metafunc.definition.get_closest_marker("default_dtype"):
        forced = metafunc.config.getoption("--default-dtype")
        if "default_dtype" not in metafunc.fixturenames:
            metafunc.fixturenames.insert(0, "default_dtype")
        metafunc.parametrize("default_dtype", [forced] if forced else sorted(DEFAULT_DTYPES), indirect=True)


@pytest.fixture
def default_dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """The dtype in which models load by default; no model that is loaded already is shared with the test."""
    _force_default_dtype(monkeypatch, request.param)
    monkeypatch.setattr(registry, "_loaded", WeakValueDictionary())
    return DEFAULT_DTYPES[request.param]


def _force_default_dtype(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(defaults, "_cpu_computes_bfloat16", lambda: dtype == "bfloat16")


@pytest.fixture
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of the published question sets."""
    folder: Path | None = request.config.getoption("--data-dir")
    if folder is None:
        pytest.skip("needs the published question sets: --data-dir=FOLDER")
    return folder


@pytest.fixture
def cache() -> InMemoryCache:
    """A response cache, shared by all models of the test that receive it."""
    return InMemoryCache()


@pytest.fixture(scope="session")
def is_campaign(request: pytest.FixtureRequest) -> bool:
    """Whether the long tests run in full, as in `make campaign`."""
    return figures.is_full(request.config)


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest, is_campaign) -> figures.Progress:
    """Progress bars, shown in `make campaign` only."""
    return figures.Progress(request.config, is_on=is_campaign)
