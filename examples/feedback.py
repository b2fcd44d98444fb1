"""A user who never says what they prefer: the model learns it from what they like.

    python examples/feedback.py

The memory starts with a few preferences that the user may or may not have, all of weight 0. For every pair of answers
the user says which is the better one; here, whoever plays the user always takes the shorter.
"""

from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig
from langchain_amulet.feedback import FeedbackLearner

USER = "alice@example.com"
POSSIBLE = ("Answer as concisely as possible.", "Be cheerful and enthusiastic.", "Explain in great detail.")
COMPARISONS = {
    "How do I boil an egg?": (
        "Boil it for eight minutes.",
        "Boiling an egg is an art that has delighted people for centuries! First, choose a wonderful, fresh egg.",
    ),
    "What is the capital of Italy?": (
        "Rome.",
        "The capital of Italy is Rome, an amazing city on the river Tiber, with a long and glorious history.",
    ),
    "How do I stay awake?": (
        "Take a short walk.",
        "There are many exciting ways to stay awake! You could begin by taking a walk, and then have some coffee.",
    ),
    "Why is the sea salty?": (
        "Rivers wash salt into it.",
        "What a great question! The sea is salty because rivers carry minerals into it, over millions of years.",
    ),
}
QUESTION = "How do I sleep better?"


def main() -> None:
    """Compare, learn, explain, and answer."""
    memory = PreferenceMemory()
    for text in POSSIBLE:
        memory.remember(USER, text, 0.0, source="learned")
    llm = ChatAmulet(memory=memory, temperature=0, max_tokens=80, realignment=RealignmentConfig(guidance_scale=3))
    learner = FeedbackLearner(llm, memory)
    user: RunnableConfig = {"configurable": {"user_id": USER}}
    print(f"Before any feedback\n  {QUESTION}\n  {llm.invoke(QUESTION, user).text}\n")
    for question, (short, long) in COMPARISONS.items():
        learner.record_comparison(USER, question, better=short, worse=long)
    explained = learner.explain(USER)
    print(
        f"After {len(COMPARISONS)} comparisons, each won by the shorter answer (confidence {explained.confidence:.2f})"
    )
    for report in explained.weights:
        print(f"  {report.preference.weight:+.2f} ± {report.std_error:.2f}  {report.preference.text}")
    print("\nWhat each comparison did to the first of them")
    for question, feedback in zip(COMPARISONS, explained.feedback, strict=True):
        print(f"  {feedback.effects[POSSIBLE[0]]:+.2f}  {question}")
    print(f"\n  {QUESTION}\n  {llm.invoke(QUESTION, user).text}")


if __name__ == "__main__":
    main()
