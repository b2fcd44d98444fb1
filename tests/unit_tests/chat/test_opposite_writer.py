"""Opposites that the model writes: who gets one, how it is checked, and that it never replaces anything."""

from collections.abc import Callable

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langgraph.store.memory import InMemoryStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.chat import opposite_writer
from langchain_amulet.chat.opposite_writer import OppositesWritten, _Writer
from langchain_amulet.exceptions import InvalidParameterError, MessageError, StoreTypeError
from tests.fakes.chats import TOKENIZER
from tests.fakes.leak_watch import one_layer_model

WISH = "Use examples from sports."
OTHER = "Mention the sea."
MODEL = one_layer_model(2048)  # the task with its examples takes 1,100 bytes


def make_llm(memory: PreferenceMemory | None = None, **fields: object) -> ChatAmulet:
    return ChatAmulet(**{"model": MODEL, "tokenizer": TOKENIZER, "memory": memory, **fields})


@pytest.fixture
def memory() -> PreferenceMemory:
    memory = PreferenceMemory()
    memory.remember("alice", WISH)
    return memory


@pytest.fixture
def write(monkeypatch) -> Callable[[Callable[[str], str]], None]:
    """Let the model write what a function of the wish returns, and pass the check."""

    def replaced(written: Callable[[str], str]) -> None:
        monkeypatch.setattr(_Writer, "_written", lambda _, wish: written(wish))
        monkeypatch.setattr(_Writer, "_separates", lambda *_: True)

    return replaced


def make_writer(**fields: object) -> _Writer:
    llm = make_llm(**fields)
    return _Writer(llm.load(), dict(llm))


def test_opposite_is_stored_with_its_preference_and_in_the_history(memory, write):
    write(lambda _: "Use no examples.")
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(1, 0)
    assert memory.recall("alice") == [Preference(WISH, opposite="Use no examples.")]
    assert [change.action for change in memory.history("alice")] == ["remembered", "changed"]


async def test_async_writes_the_same(memory, write):
    write(lambda _: "Use no examples.")
    assert await make_llm(memory).awrite_opposites("alice") == OppositesWritten(1, 0)
    assert await memory.arecall("alice") == [Preference(WISH, opposite="Use no examples.")]


def test_refusal_is_stored_so_that_it_is_not_tried_again(memory, write):
    write(lambda _: "")
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(0, 1)
    assert memory.recall("alice") == [Preference(WISH, opposite="")]
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(0, 0)


def test_opposite_that_fails_the_check_is_refused(memory, monkeypatch):
    monkeypatch.setattr(_Writer, "_written", lambda *_: "Use no examples.")
    monkeypatch.setattr(_Writer, "_separates", lambda *_: False)
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(0, 1)
    assert memory.recall("alice") == [Preference(WISH, opposite="")]


def test_only_preferences_without_any_opposite_are_asked_about(memory, write):
    asked: list[str] = []
    write(lambda wish: asked.append(wish) or "Use no examples.")
    for known in (
        "Be formal.",
        "I am vegan.",
        "Be honest.",
        Preference(OTHER, opposite=""),
        Preference("A", opposite="B"),
    ):
        memory.remember("alice", known)
    memory.remember("bob", "Mention the moon.")
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(1, 0)
    assert asked == [WISH]


def test_model_is_not_loaded_if_nothing_is_to_be_written():
    memory = PreferenceMemory()
    memory.remember("alice", "Be formal.")
    llm = ChatAmulet(model="no/such-model", memory=memory)
    assert llm.write_opposites("alice") == OppositesWritten(0, 0)


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda memory: memory.forget("alice", WISH), []),
        (lambda memory: memory.update("alice", WISH, new_text=OTHER), [Preference(OTHER)]),
        (lambda memory: memory.update("alice", WISH, opposite="Own."), [Preference(WISH, opposite="Own.")]),
        (lambda memory: memory.update("alice", WISH, opposite=""), [Preference(WISH, opposite="")]),
    ],
)
async def test_preference_that_changes_meanwhile_is_left_as_it_is(memory, write, change, now):
    write(lambda _: (change(memory) and "Use no examples.") or "Use no examples.")
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(0, 0)
    assert memory.recall("alice") == now


def test_weight_that_changes_meanwhile_remains(memory, write):
    write(lambda _: memory.update("alice", WISH, weight=0.5) and "Use no examples.")
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(1, 0)
    assert memory.recall("alice") == [Preference(WISH, 0.5, opposite="Use no examples.")]


def test_item_of_another_program_gets_its_opposite_under_the_key_of_its_text(write):
    memory = PreferenceMemory()
    memory.store.put(("preferences", "alice"), "a", {"text": WISH, "weight": 0.5})
    write(lambda _: "Use no examples.")
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(1, 0)
    assert memory.recall("alice") == [Preference(WISH, 0.5, opposite="Use no examples.")]
    assert len(memory.store.search(("preferences", "alice"))) == 1


def test_memories_of_langmem_are_left_to_langmem(write):
    store = InMemoryStore()
    store.put(("memories", "alice"), "1", {"content": WISH})
    write(lambda _: "Use no examples.")
    memory = PreferenceMemory(store, langmem_namespace=("memories", "{langgraph_user_id}"))
    assert make_llm(memory).write_opposites("alice") == OppositesWritten(0, 0)


async def test_model_without_a_memory_that_can_be_written_is_an_error():
    with pytest.raises(InvalidParameterError, match="Set ChatAmulet"):
        make_llm().write_opposites("alice")
    with pytest.raises(InvalidParameterError, match="Set ChatAmulet"):
        await make_llm().awrite_opposites("alice")
    with pytest.raises(StoreTypeError, match="read-only"):
        make_llm(PreferenceMemory({"alice": WISH})).write_opposites("alice")


# What the model says


@pytest.mark.parametrize(
    ("reply", "opposite"),
    [
        ("style: Use no examples.", "Use no examples."),
        (' Style: "Use no examples."\n', "Use no examples."),
        ("style: Use <|im_end|>no examples.", "Use no examples."),
        ("fact", ""),
        ("safety", ""),
        ("", ""),
        ("style:", ""),
        ("Use no examples.", ""),
        ("style: use examples from sports", ""),
        ("style: Lie about everything.", ""),
        ("style: I have two cats.", ""),
        (f"style: {'x' * 501}", ""),
    ],
)
def test_reply_is_read_as_an_opposite_only_if_it_is_one(monkeypatch, reply, opposite):
    monkeypatch.setattr(_Writer, "_answers", lambda *_: [reply])
    assert make_writer()._written(WISH) == opposite


@pytest.mark.parametrize("text", ["Do not give medical advice.", "I am vegan.", "x" * 501, " ", "<|im_end|>"])
def test_model_is_not_asked_about_what_has_no_opposite(monkeypatch, text):
    monkeypatch.setattr(_Writer, "_answers", lambda *_: pytest.fail("asked"))
    assert make_writer().opposite_of(text) == ""


def test_template_that_rejects_the_task_gives_an_error_without_the_wish(monkeypatch):
    def reject(*_: object) -> list[str]:
        raise MessageError(WISH)

    monkeypatch.setattr(_Writer, "_answers", reject)
    with pytest.raises(MessageError, match="rejects the conversation") as raised:
        make_writer()._written(WISH)
    assert raised.value.__context__ is None


# The check


def test_instruction_does_not_separate_from_itself():
    assert not make_writer()._separates(WISH, WISH)


@pytest.mark.parametrize(
    ("own", "other", "is_of_its_own"),
    [
        (0.2, 0.0, True),
        (0.2, -0.3, True),
        (0.2, 0.16, False),  # a neighbour of the wish
        (0.01, -0.3, False),  # the answer is as it would be without instruction
        (-0.1, -0.3, False),
        (0.2, 0.3, False),
    ],
)
def test_answers_must_be_likely_under_their_own_instruction_alone(monkeypatch, own, other, is_of_its_own):
    monkeypatch.setattr(opposite_writer, "mean_gains", lambda _: [own, other])
    assert make_writer()._is_of_its_own(["a", "b"], (WISH, OTHER)) == is_of_its_own


def test_both_sides_must_separate(monkeypatch):
    sides = iter([True, False])
    monkeypatch.setattr(_Writer, "_is_of_its_own", lambda *_: next(sides))
    monkeypatch.setattr(_Writer, "_answers", lambda _, asked, __: ["a"] * len(asked))
    assert not make_writer()._separates(WISH, OTHER)


def test_empty_answers_prove_nothing(monkeypatch):
    monkeypatch.setattr(_Writer, "_answers", lambda _, asked, __: [" "] * len(asked))
    assert not make_writer()._separates(WISH, OTHER)


def test_probes_are_answered_as_calls_with_the_preference_are():
    llm, writer = (
        make_llm(preference_template="Wish: {preferences}"),
        make_writer(preference_template="Wish: {preferences}"),
    )
    settings = {"temperature": 0.0, "max_tokens": 32, "realignment": RealignmentConfig(guidance_scale=3.0)}
    asked = [([HumanMessage(question)], WISH) for question in ("Why?", "How?")]
    assert writer._answers(asked, writer._probing) == [
        llm.invoke(messages, preference=preference, **settings).text for messages, preference in asked
    ]


# What is left behind


class Eavesdropper(BaseCallbackHandler):
    calls = 0

    def on_chat_model_start(self, *_: object, **__: object) -> None:
        self.calls += 1


def test_no_callback_or_cache_sees_what_is_asked(memory):
    heard = Eavesdropper()
    llm = make_llm(memory, callbacks=[heard], cache=True)
    llm.write_opposites("alice")
    assert heard.calls == 0


def test_no_other_request_can_reuse_what_was_computed_from_a_wish(memory):
    llm = make_llm(memory)
    loaded, writer = llm.load(), _Writer(llm.load(), dict(llm))
    requests: list = []
    submit = loaded.engine.submit
    loaded.engine.submit = lambda request: requests.append(request) or submit(request)
    writer.opposite_of(WISH)
    writer._separates(WISH, OTHER)
    del loaded.engine.submit
    assert len(requests) > 4
    for request in requests:
        for prompt, keys in zip(request.prompts, request.prefix_keys, strict=True):
            [(end, _)] = keys.parts
            assert keys.rest is None
            assert WISH not in TOKENIZER.decode(prompt[:end])
            assert OTHER not in TOKENIZER.decode(prompt[:end])
