"""Fakes for tests of evaluations: questions, preferences, a short protocol, a tiny model, methods and judges by rule."""

from collections.abc import Callable

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_amulet import ChatAmulet
from langchain_amulet.evaluation import Answer, Dataset, Dimension, Evaluation, Method, Protocol, Sample, Scorer
from langchain_amulet.evaluation.runs.answer import answer_key
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

QUESTIONS = Dataset("two", (Sample("a", "Why?"), Sample("b", "How?")))
BRIEF = Dimension("concise", "Be brief.")
LOUD = Dimension("verbose", "Be loud!")
PROTOCOL = Protocol(max_tokens=8, temperatures=(0.0, 0.7), num_at_once=4)
LENGTH = Scorer("length", lambda answer: len(answer.text), better="higher")
TOKENS = Scorer("tokens", lambda answer: len(answer.text.split()))


def tiny_llm(seed: int = 5) -> ChatAmulet:
    return ChatAmulet(model=tiny_model("qwen2", seed=seed), tokenizer=byte_tokenizer())


def answer(text: str, *, decoding_key: str = "w=1", question: str = "Why?", preference: str = "Be brief.") -> Answer:
    """An answer to the first question of `QUESTIONS`."""
    return Answer(
        key=answer_key(decoding_key, "two", "a", "concise", 0.0),
        decoding_key=decoding_key,
        dataset="two",
        sample_id="a",
        question=question,
        dimension="concise",
        preference=preference,
        temperature=0.0,
        text=text,
        num_tokens=len(text.split()),
        finish_reason="stop",
        seconds=1.0,
    )


def saying(name: str, words: int, **values) -> Method:
    """A method whose answers have this number of words."""
    return Method(name, lambda _: AIMessage(" ".join(map(str, range(words)))), **values)


class Referee(BaseChatModel):
    """A judge whose reply is the value of `rule` for the two texts."""

    rule: Callable[[str, str], str]
    prompts: list = []  # noqa: RUF012 - pydantic copies it

    def _generate(self, messages, *_, **__):
        prompt = messages[-1].content
        self.prompts.append(prompt)
        first = prompt.split("<text 1>\n")[1].split("\n</text 1>")[0]
        second = prompt.split("<text 2>\n")[1].split("\n</text 2>")[0]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.rule(first, second)))])

    @property
    def _llm_type(self):
        return "referee"


def referee(rule) -> Referee:
    return Referee(rule=rule, prompts=[])


def longer(first: str, second: str) -> str:
    return "1" if len(first) > len(second) else "2"


def texts(
    evaluation: Evaluation, method: str, temperature: float = 0.0, dimension: str = "concise"
) -> dict[tuple[str, str], str]:
    """The answers of a method, by data set and question."""
    result = evaluation.answers_of(method, dimension=dimension, temperature=temperature)
    return {cluster: answer.text for cluster, answer in result.items()}
