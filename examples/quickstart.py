"""One model, two users who prefer different answers, and a visitor of whom nothing is known.

Run it with `make demo`. Everything is greedy, so the output is the same on every run.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, PreferenceMemory

memory = PreferenceMemory()
memory.remember("alice@example.com", "Answer as concisely as possible.")
memory.remember("bob@example.com", "Answer in an enthusiastic and encouraging way.")

prompt = ChatPromptTemplate.from_messages([("system", "You are a helpful assistant."), ("human", "{question}")])
chain = prompt | ChatAmulet(memory=memory, max_tokens=120) | StrOutputParser()

QUESTIONS = ["How can I sleep better at night?", "What is a good way to learn the guitar?"]

for question in QUESTIONS:
    print(f"\n=== {question}")
    for user in ("alice@example.com", "bob@example.com", None):
        preferences = [preference.text for preference in memory.recall(user)] if user else ["(nothing known)"]
        print(f"\n--- {user or 'a visitor'}: {' '.join(preferences)}")
        config: RunnableConfig = {"configurable": {"user_id": user}} if user else {}
        for text in chain.stream({"question": question}, config):
            print(text, end="", flush=True)
        print()
