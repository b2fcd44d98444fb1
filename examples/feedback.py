"""Learn what a user prefers from the answers they like, without asking them.

    python examples/feedback.py

The memory starts with three preferences that the user may or may not have, all of weight 0. The user compares pairs of
answers; this example plays a user who always picks the shorter one. The weights are then fitted to these choices.
"""

from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, PreferenceMemory
from langchain_amulet.feedback import FeedbackLearner

USER = "alice@example.com"
CANDIDATES = ("Answer as concisely as possible.", "Be cheerful and enthusiastic.", "Explain in great detail.")
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
    """Answer, record the user's choices, print the learned weights, and answer again."""
    memory = PreferenceMemory()
    for text in CANDIDATES:
        memory.remember(USER, text, weight=0.0, source="learned")
    llm = ChatAmulet(memory=memory, temperature=0, max_tokens=60)
    learner = FeedbackLearner(llm, memory)
    config: RunnableConfig = {"configurable": {"user_id": USER}}
    print(f"=== Before any feedback: {QUESTION}\n{llm.invoke(QUESTION, config).text}")

    for question, (short, long) in COMPARISONS.items():
        learner.record_comparison(USER, question, better=short, worse=long)
    explanation = learner.explain(USER)
    print(f"\n=== Weights after {len(COMPARISONS)} comparisons (confidence {explanation.confidence:.2f})")
    for report in explanation.weights:
        print(f"    {report.preference.weight:+.2f} ± {report.std_error:.2f}  {report.preference.text}")
    print(f"\n=== How each comparison moved the weight of {CANDIDATES[0]!r}")
    for question, feedback in zip(COMPARISONS, explanation.feedback, strict=True):
        print(f"    {feedback.effects[CANDIDATES[0]]:+.2f}  {question}")

    print(f"\n=== After the feedback: {QUESTION}\n{llm.invoke(QUESTION, config).text}")


if __name__ == "__main__":
    main()
