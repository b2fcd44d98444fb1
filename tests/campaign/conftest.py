"""A PostgreSQL for the campaign, an outage log that has logged nothing, and requests that outgrow their room."""

import logging
from collections.abc import Iterator

import pytest

from langchain_amulet.personalization import lookup
from langchain_amulet.personalization.outage_log import OutageLog
from tests.fakes.databases import Postgres, started_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that all tests of this process share."""
    with started_postgres() as postgres:
        yield postgres


@pytest.fixture(autouse=True)
def small_headroom(monkeypatch) -> None:
    """Requests are admitted with room for one token, so that under pressure some lose their rows."""
    monkeypatch.setattr("langchain_amulet.engine.admission._HEADROOM", 1)


@pytest.fixture(autouse=True)
def fresh_outage_log(monkeypatch) -> None:
    """Each test sees the first outage of each kind logged, whatever other tests logged."""
    monkeypatch.setattr(lookup, "_outages", OutageLog(logging.getLogger(lookup.__name__)))
