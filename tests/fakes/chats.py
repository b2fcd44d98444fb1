"""A ChatAmulet over a tiny random model, with two users and what they get."""

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

QUESTION = "Why?"
BRIEF = "Be brief."
CHEERFUL = "Be cheerful!"
ALICE = {"configurable": {"user_id": "alice@example.com"}}
BOB = {"configurable": {"user_id": "bob"}}
MODEL = tiny_model("qwen2", seed=5)
TOKENIZER = byte_tokenizer()
SHORT = {"max_tokens": 12, "realignment": RealignmentConfig(guidance_scale=3.0)}


def users_memory() -> PreferenceMemory:
    """Return a memory with the preferences of the two users."""
    memory = PreferenceMemory()
    memory.remember("alice@example.com", BRIEF)
    memory.remember("bob", CHEERFUL, 0.5)
    return memory


def short_llm(memory: PreferenceMemory | None = None) -> ChatAmulet:
    """Return a chat model with short answers."""
    return ChatAmulet(model=MODEL, tokenizer=TOKENIZER, memory=memory, **SHORT)


def expected_answers() -> dict[str, str]:
    """Return what each user is to read, from calls that name the preference."""
    llm = short_llm()
    preferences = {"alice": BRIEF, "bob": Preference(CHEERFUL, 0.5), "visitor": None}
    texts: dict[str, str] = {
        name: llm.invoke(QUESTION, preference=preference).text for name, preference in preferences.items()
    }
    assert len(set(texts.values())) == 3, "the users' answers must differ, or the tests prove nothing"
    return texts
