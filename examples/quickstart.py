"""One model, two users who prefer different answers, and a visitor of whom nothing is known.

Run it with `make demo`. Everything is greedy, so the output is the same on every run. A model of 135M parameters needs
some help to show it well: the guidance scale is 3 (at the default of 2 it often leaves its lists off), and a repetition
penalty keeps it out of loops.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig

memory = PreferenceMemory()
memory.remember("alice@example.com", "Answer in one short sentence.")
memory.remember("bob@example.com", "Answer as a numbered list.")

prompt = ChatPromptTemplate.from_messages([("system", "You are a helpful assistant."), ("human", "{question}")])
llm = ChatAmulet(
    memory=memory,
    realignment=RealignmentConfig(guidance_scale=3.0),
    repetition_penalty=1.1,
    max_tokens=220,
)
chain = prompt | llm | StrOutputParser()

for question in ["How do I start running?", "How do I stay motivated?"]:
    print(f"\n=== {question}")
    for user in ["alice@example.com", "bob@example.com", None]:
        preferences = [preference.text for preference in memory.recall(user)] if user else ["nothing known"]
        print(f"\n--- {user or 'a visitor'} ({' '.join(preferences)})")
        config: RunnableConfig = {"configurable": {"user_id": user}} if user else {}
        for text in chain.stream({"question": question}, config):
            print(text, end="", flush=True)
        print()
