"""Streams: two users at once, a preference for one call, an answer stopped early, and what was counted."""

import asyncio

from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory

memory = PreferenceMemory()
memory.remember("alice@example.com", "Answer in one short sentence.")
memory.remember("bob@example.com", "Explain it to a five-year-old child.")
llm = ChatAmulet(memory=memory, max_tokens=60, repetition_penalty=1.1)

QUESTION = "How does a rainbow form?"
NUM_PIECES = 25


async def answer(user: str) -> AIMessageChunk:
    """Read one user's stream to its end; the last chunk carries the counts."""
    config: RunnableConfig = {"configurable": {"user_id": user}}
    chunks = [chunk async for chunk in llm.astream(QUESTION, config)]
    return sum(chunks[1:], start=chunks[0])


async def both() -> None:
    """Both users' streams run side by side."""
    users = ["alice@example.com", "bob@example.com"]
    for user, message in zip(users, await asyncio.gather(*map(answer, users)), strict=True):
        print(f"\n--- {user}\n{message.text}\n{message.usage_metadata}\n{message.response_metadata}")


asyncio.run(both())

print(f"\n--- a liking and a dislike, for this call alone, stopped after {NUM_PIECES} pieces")
preferences = [Preference("Answer with an example from daily life."), Preference("Use technical terms.", weight=-0.5)]
for count, chunk in enumerate(llm.stream(QUESTION, preference=preferences), start=1):
    print(chunk.text, end="", flush=True)
    if count == NUM_PIECES:
        break  # closes the stream: the model stops at once
print()
