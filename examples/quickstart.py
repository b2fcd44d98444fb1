"""One model, two users who prefer different answers, and a visitor without preferences.

    make demo

All three ask at the same time and are answered in one batch. The model is very small (SmolLM2, 135M parameters) and
needs a repetition penalty, which keeps it out of loops. Decoding is greedy, but another processor prints other words,
and in bfloat16 so may another run: rounding differs, and one token that differs changes all that follow.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, PreferenceMemory

USERS = ("alice@example.com", "bob@example.com", "visitor")
QUESTIONS = ("How do I sleep better?", "How do I stay motivated?")

memory = PreferenceMemory()
memory.remember("alice@example.com", "Answer in one short sentence.")
memory.remember("bob@example.com", "Answer as a numbered list.")

prompt = ChatPromptTemplate.from_messages([("system", "You are a helpful assistant."), ("human", "{question}")])
llm = ChatAmulet(memory=memory, temperature=0, repetition_penalty=1.1, max_tokens=80)
chain = prompt | llm | StrOutputParser()
configs: list[RunnableConfig] = [{"configurable": {"user_id": user}} for user in USERS]

llm.load()  # now, so that its messages do not stand among the answers
for question in QUESTIONS:
    print(f"\n=== {question}")
    answers = chain.batch([{"question": question}] * len(USERS), configs)
    for user, answer in zip(USERS, answers, strict=True):
        preferences = [preference.text for preference in memory.recall(user)]
        print(f"\n--- {user} ({' '.join(preferences) or 'no preferences'})\n{answer.strip()}")
