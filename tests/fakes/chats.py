"""A ChatAmulet over a tiny random model, with two users and what they get."""

from langchain_amulet import RealignmentConfig
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
