"""Settings for all tests."""

import os
import tempfile
from pathlib import Path

# Before anything imports platformdirs or transformers: no network, and no key in the user's data directory. Only the
# converted weights of the packaged model are shared with the user's own cache: making them takes most of a minute.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="amulet-tests-")

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("campaign", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

import pytest  # noqa: E402
import torch  # noqa: E402
from langchain_core.caches import InMemoryCache  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other core is the other worker's


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where question sets lie that are not ours to ship."""
    parser.addoption(
        "--data-dir", type=Path, help="a folder with the four question sets that Amulet's authors published"
    )


@pytest.fixture
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of the published question sets."""
    folder: Path | None = request.config.getoption("--data-dir")
    if folder is None:
        pytest.skip("needs the published question sets: --data-dir=FOLDER")
    return folder


@pytest.fixture
def cache() -> InMemoryCache:
    """A response cache, shared by whoever is given it."""
    return InMemoryCache()


@pytest.fixture(scope="session")
def is_campaign(request: pytest.FixtureRequest) -> bool:
    """Whether the long tests run whole: `make campaign`."""
    return request.config.getoption("--hypothesis-profile") == "campaign"
