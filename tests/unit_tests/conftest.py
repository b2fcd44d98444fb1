"""A PostgreSQL of the tests' own."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.fakes.databases import Postgres, started_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that all tests of this process share."""
    with started_postgres() as postgres:
        yield postgres


@pytest.fixture
def empty_postgres(postgres) -> Postgres:
    """The server, with nothing in it."""
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute("DELETE FROM store")
    return postgres
