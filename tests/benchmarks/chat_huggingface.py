"""The contender of LangChain's own: ChatHuggingFace, which has no preferences and answers one user after another."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast, pipeline

from tests.benchmarks.contenders import PLAIN, PROMPTED, Contender, NotAvailableError, Stamps, stamped
from tests.benchmarks.machine import weight_bytes
from tests.benchmarks.models import LONG_QUESTION, PREFERENCES, SYSTEM

NAME = "ChatHuggingFace"


def contenders(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, num_tokens: int) -> list[Contender]:
    """Return the contenders.

    Raises:
        NotAvailableError: langchain-huggingface is not installed.
    """
    try:
        from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    except ImportError:
        msg = "pip install --no-deps langchain-huggingface"
        raise NotAvailableError(msg) from None
    # Pass the settings to the pipeline itself: ChatHuggingFace drops those of HuggingFacePipeline.
    limits: dict[str, Any] = {
        "max_new_tokens": num_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer, **limits)
    chat = ChatHuggingFace(llm=HuggingFacePipeline(pipeline=generator), tokenizer=tokenizer)
    prompted = [("system", f"{SYSTEM[1]}\n\n{PREFERENCES[0]}"), *LONG_QUESTION[1:]]

    def contender(prompt: str, messages: list[tuple[str, str]]) -> Contender:
        def answer(_: int) -> Stamps:
            chat.invoke(messages)
            return [stamped([None])]

        return Contender(NAME, prompt, answer, weight_bytes(model), most_users=1)

    return [contender(PLAIN, LONG_QUESTION), contender(PROMPTED, prompted)]
