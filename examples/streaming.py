"""Stream answers to two users at the same time, give a preference for one call, and stop an answer early.

    python examples/streaming.py

Closing a stream, here by `break`, frees the model for other requests at the next token.
"""

import asyncio

from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory

USERS = {
    "alice@example.com": "Answer in one short sentence.",
    "bob@example.com": "Explain it to a five-year-old child.",
}
QUESTION = "How does a rainbow form?"
NUM_CHUNKS = 25


async def stream_to(llm: ChatAmulet, user_id: str) -> AIMessageChunk:
    """Stream one user's answer and add its chunks up. The last chunk carries the token counts."""
    config: RunnableConfig = {"configurable": {"user_id": user_id}}
    chunks = [chunk async for chunk in llm.astream(QUESTION, config)]
    return sum(chunks[1:], start=chunks[0])


async def stream_to_all(llm: ChatAmulet) -> None:
    """Run the streams of all users at the same time, and print what each of them was sent."""
    answers = await asyncio.gather(*[stream_to(llm, user_id) for user_id in USERS])
    for (user_id, preference), answer in zip(USERS.items(), answers, strict=True):
        print(f"\n--- {user_id} ({preference})\n{answer.text}")
        print(f"    tokens: {answer.usage_metadata}")
        print(f"    finish reason: {answer.response_metadata['finish_reason']}")


def stop_early(llm: ChatAmulet) -> None:
    """Print an answer as it is generated, and leave the loop after some chunks."""
    like = Preference("Answer with an example from daily life.")
    dislike = Preference("Use technical terms.", weight=-0.5)
    print(f"\n--- one call with a preference and a dislike of its own, stopped after {NUM_CHUNKS} chunks")
    for count, chunk in enumerate(llm.stream(QUESTION, preference=[like, dislike]), start=1):
        print(chunk.text, end="", flush=True)
        if count == NUM_CHUNKS:
            break
    print()


def main() -> None:
    """Remember what the users prefer, then stream."""
    memory = PreferenceMemory()
    for user_id, preference in USERS.items():
        memory.remember(user_id, preference)
    llm = ChatAmulet(memory=memory, temperature=0, repetition_penalty=1.1, max_tokens=60)
    print(f"=== {QUESTION}")
    asyncio.run(stream_to_all(llm))
    stop_early(llm)


if __name__ == "__main__":
    main()
