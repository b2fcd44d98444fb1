"""The fields of a chat model say which model answers: after assignment, in copies, and after close()."""

import copy
import pickle

import pytest
from langchain_core.load import dumpd
from langchain_core.runnables import ConfigurableField

from langchain_amulet import ChatAmulet
from langchain_amulet.exceptions import ModelClosedError
from tests.fakes.chats import ALICE, MODEL, QUESTION, SHORT, TOKENIZER, expected_answers, short_llm, users_memory
from tests.fakes.models import tiny_model

OTHER = tiny_model("qwen2", seed=6)


def llm_of(model, **fields) -> ChatAmulet:
    return ChatAmulet(model=model, tokenizer=TOKENIZER, **{**SHORT, **fields})


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    texts: dict[str, str] = {"MODEL": llm_of(MODEL).invoke(QUESTION).text, "OTHER": llm_of(OTHER).invoke(QUESTION).text}
    assert len({*texts.values()}) == 2
    return texts


def test_assigned_model_answers(answers):
    llm = llm_of(MODEL)
    assert llm.invoke(QUESTION).text == answers["MODEL"]
    copied = llm.model_copy(update={"model": OTHER})
    llm.model = OTHER
    assert llm.invoke(QUESTION).text == copied.invoke(QUESTION).text == answers["OTHER"]


def test_cache_serves_no_answer_of_the_model_that_was_assigned_before(answers, cache):
    llm = llm_of(MODEL, cache=cache)
    llm.invoke(QUESTION)
    llm.model = OTHER
    llm.invoke(QUESTION)
    assert llm_of(OTHER, cache=cache).invoke(QUESTION).text == answers["OTHER"]
    assert llm_of(MODEL, cache=cache).invoke(QUESTION).text == answers["MODEL"]
    assert len(cache._cache) == 2


@pytest.mark.parametrize("model", [MODEL, None], ids=["a loaded model", "the packaged model"])
def test_copies_of_a_closed_model_load_no_other(model):
    llm = llm_of(model) if model else ChatAmulet()
    llm.close()
    configured = llm.configurable_fields(temperature=ConfigurableField(id="temperature"))
    for closed in (llm, llm.model_copy(), copy.copy(llm), copy.deepcopy(llm), pickle.loads(pickle.dumps(llm))):  # noqa: S301
        with pytest.raises(ModelClosedError, match="Make a new one"):
            closed.invoke(QUESTION)
    with pytest.raises(ModelClosedError, match="Make a new one"):
        configured.invoke(QUESTION, {"configurable": {"temperature": 0.5}})
    llm.close()


def test_closing_changes_neither_name_nor_saved_copy():
    llm, closed = llm_of(MODEL), llm_of(MODEL)
    closed.close()
    assert closed._get_ls_params() == llm._get_ls_params()
    assert dumpd(closed)["kwargs"]["model"] == dumpd(llm)["kwargs"]["model"]


def test_closed_model_answers_again_once_a_model_is_assigned(answers):
    llm = llm_of(MODEL)
    llm.close()
    llm.model, llm.tokenizer = OTHER, TOKENIZER
    assert llm.invoke(QUESTION).text == answers["OTHER"]


def test_closing_keeps_quiet_about_a_path_that_is_gone():
    llm = ChatAmulet(model="./no-such-folder")
    llm.close()
    with pytest.raises(ModelClosedError):
        llm.load()


def test_deep_copy_of_a_loaded_model_shares_engine_and_memory(cache):
    llm = short_llm(users_memory()).model_copy(update={"cache": cache})
    text = llm.invoke(QUESTION, ALICE).text
    copied = copy.deepcopy(llm)
    assert copied.engine is llm.engine
    assert copied.memory is llm.memory
    assert copied.cache is cache
    assert copied.invoke(QUESTION, ALICE).text == text == expected_answers()["alice"]
    copied.chat_template_kwargs["x"] = 1
    assert llm.chat_template_kwargs == {}


def test_pickled_loaded_model_loads_anew(answers):
    llm = llm_of(MODEL)
    llm.load()
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301
    assert again._loaded is None
    assert again.invoke(QUESTION).text == answers["MODEL"]
