"""Writers that store preferences in one database at the same time."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from langchain_amulet.memory.preference_memory import PreferenceMemory

ALL = "everybody"
HASTE = {  # settings that give up durability for speed
    "sqlite": "PRAGMA synchronous = OFF",
    "postgres": "SET synchronous_commit = off",
}


@contextlib.contextmanager
def database(kind: str, place: str) -> Iterator[Any]:
    """Open a sync store in a database."""
    store_class: Any  # the classes share only `BaseStore`, which has no connection
    if kind == "sqlite":
        from langgraph.store.sqlite import SqliteStore

        store_class = SqliteStore
    else:
        from langgraph.store.postgres import PostgresStore

        store_class = PostgresStore
    with store_class.from_conn_string(place) as store:
        store.setup()
        store.conn.execute(HASTE[kind])
        yield store


def write(memory: PreferenceMemory, writer: str, num_rounds: int) -> None:
    """Remember, change and forget preferences of the writer's own user and of the user shared by all writers."""
    for number in range(num_rounds):
        for user_id in (ALL, writer):
            memory.remember(user_id, f"{writer} keeps {number}.")
            memory.remember(user_id, f"{writer} forgets {number}.")
            memory.remember(user_id, f"{writer} changes {number}.")
            memory.forget(user_id, f"{writer} forgets {number}.")
            memory.update(user_id, f"{writer} changes {number}.", new_text=f"{writer} changed {number}.", weight=0.5)


def write_alone(kind: str, place: str, writer: str, num_rounds: int, wait: Callable[[], object]) -> None:
    """Open a connection, wait until all other writers have theirs, then call `write`."""
    with database(kind, place) as store:
        wait()
        write(PreferenceMemory(store), writer, num_rounds)


def expected_weights(writers: list[str], num_rounds: int) -> dict[str, float]:
    """The weights by text after all writers have finished."""
    return {
        text: weight
        for writer in writers
        for number in range(num_rounds)
        for text, weight in [(f"{writer} keeps {number}.", 1.0), (f"{writer} changed {number}.", 0.5)]
    }
