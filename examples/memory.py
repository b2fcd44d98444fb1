"""What a user prefers over time: two wishes, a dislike, a change of mind, a restart, and forgetting.

    python examples/memory.py [preferences.db]

Preferences are kept in SQLite, where they outlive the program: the second half runs on the file opened anew. Everything
is greedy, so the output is the same on every run with a new file.
"""

import sys
import tempfile
from pathlib import Path

from langgraph.store.sqlite import SqliteStore

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig

USER = "alice@example.com"
QUESTION = "How do I stay healthy?"


def ask(llm: ChatAmulet, memory: PreferenceMemory, when: str) -> None:
    """Show what is remembered of the user, and how they are answered by it."""
    print(f"\n=== {when}")
    for preference in memory.recall(USER):
        print(f"  {preference.weight:+.1f}  {preference.text}")
    print(llm.invoke(QUESTION, {"configurable": {"user_id": USER}}).text)


def tell(llm: ChatAmulet, memory: PreferenceMemory) -> None:
    """The user says what they like, what they do not, and something else later on."""
    ask(llm, memory, "Nothing is known")
    memory.remember(USER, "Answer as a numbered list.")
    memory.remember(USER, "Use simple words, as for a child.", weight=0.5)
    ask(llm, memory, "Two wishes, the second half as strong")
    memory.remember(USER, "Talk about sleep.", weight=-1)
    ask(llm, memory, "A dislike: less of that")
    memory.update(USER, "Answer as a numbered list.", new_text="Answer in one short sentence.")
    ask(llm, memory, "A change of mind")


def look_back_and_forget(llm: ChatAmulet, memory: PreferenceMemory) -> None:
    """How it came to be so, and how it ends."""
    ask(llm, memory, "After a restart")
    print("\nThe history:")
    for change in memory.history(USER):
        print(f"  {change.action:10}  {change.preference.weight:+.1f}  {change.preference.text}")
    memory.forget(USER, "Talk about sleep.")
    ask(llm, memory, "One thing forgotten")
    memory.forget_user(USER)
    ask(llm, memory, "All forgotten")
    print("\nThe history is gone, too:", memory.history(USER))


def main(database: Path) -> None:
    """Open the file twice, as two runs of a program do."""
    for part in (tell, look_back_and_forget):
        with SqliteStore.from_conn_string(str(database)) as store:
            store.setup()
            memory = PreferenceMemory(store)
            realignment = RealignmentConfig(guidance_scale=3)
            llm = ChatAmulet(
                memory=memory, temperature=0, max_tokens=40, repetition_penalty=1.1, realignment=realignment
            )
            part(llm, memory)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "preferences.db")
