"""Programs that keep preferences in one database at the same time."""

import contextlib
from collections.abc import Callable, Iterator

from langgraph.store.base import BaseStore

from langchain_amulet.memory.preference_memory import PreferenceMemory

ALL = "everybody"
HASTE = {  # no test pulls the plug
    "sqlite": "PRAGMA synchronous = OFF",
    "postgres": "SET synchronous_commit = off",
}


@contextlib.contextmanager
def database(kind: str, place: str) -> Iterator[BaseStore]:
    """A sync store in a database."""
    if kind == "sqlite":
        from langgraph.store.sqlite import SqliteStore as Store
    else:
        from langgraph.store.postgres import PostgresStore as Store
    with Store.from_conn_string(place) as store:
        store.setup()
        store.conn.execute(HASTE[kind])
        yield store


def write(memory: PreferenceMemory, writer: str, num_rounds: int) -> None:
    """Remember, change and forget, for a user of one's own and for one whom all write for."""
    for number in range(num_rounds):
        for user_id in (ALL, writer):
            memory.remember(user_id, f"{writer} keeps {number}.")
            memory.remember(user_id, f"{writer} forgets {number}.")
            memory.remember(user_id, f"{writer} changes {number}.")
            memory.forget(user_id, f"{writer} forgets {number}.")
            memory.update(user_id, f"{writer} changes {number}.", new_text=f"{writer} changed {number}.", weight=0.5)


def write_alone(kind: str, place: str, writer: str, num_rounds: int, wait: Callable[[], object]) -> None:
    """`write`, over a connection of one's own, once all others have one too."""
    with database(kind, place) as store:
        wait()
        write(PreferenceMemory(store), writer, num_rounds)


def due(writers: list[str], num_rounds: int) -> dict[str, float]:
    """What is to be there in the end, by text the weight."""
    return {
        text: weight
        for writer in writers
        for number in range(num_rounds)
        for text, weight in [(f"{writer} keeps {number}.", 1.0), (f"{writer} changed {number}.", 0.5)]
    }
