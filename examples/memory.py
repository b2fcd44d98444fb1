"""How a user's preferences change over time: two preferences, a dislike, a correction, a restart, and deletion.

    python examples/memory.py [preferences.db]

Preferences are stored in SQLite and survive a restart. To show this, the second half opens the file again. Without an
argument, the file is temporary. Decoding is greedy; another processor may still word the answers otherwise.
"""

import sys
import tempfile
from pathlib import Path

from langgraph.store.sqlite import SqliteStore

from langchain_amulet import ChatAmulet, PreferenceMemory

USER = "alice@example.com"
QUESTION = "How do I stay healthy?"


def ask(llm: ChatAmulet, memory: PreferenceMemory, heading: str) -> None:
    """Print the user's preferences, and the answer that they lead to."""
    print(f"\n=== {heading}")
    for preference in memory.recall(USER):
        print(f"    {preference.weight:+.1f}  {preference.text}")
    print(llm.invoke(QUESTION, {"configurable": {"user_id": USER}}).text)


def before_the_restart(llm: ChatAmulet, memory: PreferenceMemory) -> None:
    """Store two preferences, then a dislike, then replace one of them."""
    ask(llm, memory, "No preferences yet")
    memory.remember(USER, "Answer as a numbered list.")
    memory.remember(USER, "Use simple words, as for a child.", weight=0.5)
    ask(llm, memory, "Two preferences, the second at half weight")
    memory.remember(USER, "Talk about sleep.", weight=-1)
    ask(llm, memory, "A dislike: a negative weight")
    memory.update(USER, "Answer as a numbered list.", new_text="Answer in one short sentence.")
    ask(llm, memory, "The first preference replaced by another")


def after_the_restart(llm: ChatAmulet, memory: PreferenceMemory) -> None:
    """Read the history, delete one preference, then delete everything about the user."""
    ask(llm, memory, "After a restart")
    print("\nHistory:")
    for change in memory.history(USER):
        print(f"    {change.action:10}  {change.preference.weight:+.1f}  {change.preference.text}")
    memory.forget(USER, "Talk about sleep.")
    ask(llm, memory, "The dislike deleted")
    memory.forget_user(USER)
    ask(llm, memory, "Everything about the user deleted")
    print(f"\nHistory after the deletion: {memory.history(USER)}")


def main(database: Path) -> None:
    """Open the database twice, as two runs of a program would."""
    for part in (before_the_restart, after_the_restart):
        with SqliteStore.from_conn_string(str(database)) as store:
            store.setup()
            memory = PreferenceMemory(store)
            llm = ChatAmulet(
                memory=memory,
                temperature=0,
                repetition_penalty=1.1,
                max_tokens=32,
            )
            part(llm, memory)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "preferences.db")
