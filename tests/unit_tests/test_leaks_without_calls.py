"""What is shown of preferences without a call, or in place of an answer: nothing."""

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel, ValidationError

from langchain_amulet import Preference, PreferenceMemory
from langchain_amulet.chat.opposite_writer import OppositesWritten, _Writer
from langchain_amulet.exceptions import (
    ContextLengthError,
    InvalidParameterError,
    StoredPreferenceError,
)
from langchain_amulet.personalization.resolved import resolve
from tests.fakes.leak_tools import Mood, past_questions, printed_error
from tests.fakes.leak_watch import (
    PROMPT,
    Eavesdropper,
    Watch,
    WatchedCache,
    make_llm,
    one_layer_model,
    random_preferences,
    tracer,
    watched_logs,
    watched_warnings,
)

PROFILE = random_preferences(random.Random(3))
SECRET = PROFILE[0].text


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    with watched_logs(watch), watched_warnings(watch):
        yield watch


def test_serialised_models_show_no_preference(watch):
    memory = PreferenceMemory()
    memory.remember("somebody", SECRET)
    models = [make_llm(memory=memory, preference=[*PROFILE]), make_llm().model_copy(update={"preference": SECRET})]
    bound = models[0].bind(preference=SECRET, stop=["."])
    wrapped = [bound, bound.with_config(tags=["x"]), PROMPT | bound, models[0].with_fallbacks([bound])]
    wrapped += [models[0].with_structured_output(Mood, preference=SECRET)]
    wrapped += [models[0].bind_tools([past_questions([])], preference=[*PROFILE])]
    wrapped += [models[0].configurable_fields(preference=ConfigurableField(id="preference"))]
    shows: dict[str, Callable[[object], object]] = {"repr": repr, "str": str, "dumpd": dumpd, "dumps": dumps}
    for show, each in itertools.product(shows, [*models, *wrapped]):
        watch.see(f"{show} of {type(each).__name__}", shows[show](each))
    for llm in models:
        dumped = [llm.model_dump(exclude={"model", "tokenizer"}), llm.asdict(), llm._identifying_params]
        watch.see("dump", [*dumped, llm._get_llm_string(), llm._get_ls_params()])
        watch.see("JSON", llm.model_dump_json(exclude={"model", "tokenizer", "memory"}))
    assert watch.leaks == []


@pytest.mark.parametrize("bind", [lambda llm: llm.bind(stop=["."]), lambda llm: llm.bind_tools([past_questions([])])])
def test_preference_bound_to_a_binding_is_not_shown(watch, bind):
    bound = bind(make_llm()).bind(preference=SECRET)
    watch.see("binding", [repr(bound), dumps(bound)])
    assert watch.leaks == []


def test_schema_of_configurable_fields_does_not_show_the_fields_preference(watch):
    fields = make_llm(preference=SECRET).configurable_fields(preference=ConfigurableField(id="preference"))
    watch.see("schema", fields.get_config_jsonschema())
    assert watch.leaks == []


def test_errors_and_warnings_about_preferences_show_none(watch):
    memory = PreferenceMemory()
    memory.store.put(("preferences", "somebody"), "1", {"text": SECRET, "weight": SECRET})
    config = {"configurable": {"user_id": "somebody"}}
    attempts = [
        (ContextLengthError, lambda: make_llm().invoke("Why?", preference=SECRET * 50)),
        (StoredPreferenceError, lambda: make_llm(memory=memory).invoke("Why?", config)),
        (ValidationError, lambda: make_llm(preference=SECRET, top_p=-1)),
    ]
    for kind, attempt in attempts:
        with pytest.raises(kind) as refused:
            attempt()
        watch.see("error", printed_error(refused.value))
    make_llm(max_streams=2).invoke("Why?", preference=[Preference(SECRET, 1), Preference(SECRET * 2, 0.5)])
    assert watch.num_seen["warning"] > 0
    assert watch.leaks == []


def test_errors_and_warnings_about_opposites_show_none(watch):
    memory = PreferenceMemory()
    memory.store.put(("preferences", "somebody"), "1", {"text": "Sing.", "weight": 1, "opposite": [SECRET]})
    config = {"configurable": {"user_id": "somebody"}}
    attempts = [
        (ContextLengthError, lambda: make_llm().invoke("Why?", preference=opposed(SECRET * 50))),
        (StoredPreferenceError, lambda: make_llm(memory=memory).invoke("Why?", config)),
        (StoredPreferenceError, lambda: make_llm(memory=memory).write_opposites("somebody")),
        (ValidationError, lambda: make_llm(preference=opposed(SECRET), top_p=-1)),
        (InvalidParameterError, lambda: opposed(SECRET + "\0")),
        (InvalidParameterError, lambda: PreferenceMemory().remember("somebody", opposed(SECRET * 1000))),
    ]
    for kind, attempt in attempts:
        with pytest.raises(kind) as refused:
            attempt()
        watch.see("error", printed_error(refused.value))
    make_llm(max_streams=2).invoke("Why?", preference=[opposed(SECRET), opposed(SECRET * 2, 0.5)])
    assert watch.num_seen["warning"] > 0
    assert watch.leaks == []


def opposed(opposite: str, weight: float = 1.0) -> Preference:
    return Preference("Sing.", weight, opposite=opposite)


@pytest.mark.parametrize("show", [repr, str, dumpd, dumps])
def test_models_with_opposites_show_none(watch, show):
    llm = make_llm(preference=opposed(SECRET))
    bound = make_llm().bind(preference=[opposed(SECRET)])
    for each in (opposed(SECRET), llm, bound, PROMPT | bound, llm.preference_settings, resolve(opposed(SECRET))):
        watch.see("model", show(each) if isinstance(each, BaseModel) else repr(each))
    watch.see("dump", [llm._identifying_params, llm._get_llm_string(), llm._get_ls_params()])
    assert watch.leaks == []


@pytest.mark.parametrize("written", [None, f"Never {SECRET}"])
def test_writing_opposites_is_not_overheard(watch, monkeypatch, written):
    memory = PreferenceMemory()
    memory.remember("somebody", SECRET)
    heard = [Eavesdropper(watch, ()), tracer(watch, ())]
    llm = make_llm(model=one_layer_model(2048), memory=memory, callbacks=heard)
    llm.cache = WatchedCache(InMemoryCache(), watch)
    if written is not None:
        monkeypatch.setattr(_Writer, "_written", lambda *_: written)
    assert llm.write_opposites("somebody") in (OppositesWritten(1, 0), OppositesWritten(0, 1))
    watch.see("history", repr(memory.history("somebody")))
    assert watch.leaks == []


def test_debugging_prints_no_preference(watch, monkeypatch, capsys):
    monkeypatch.setattr("langchain_core.globals._debug", True)
    (PROMPT | make_llm().bind(preference=SECRET)).invoke({"question": "Why?"})
    make_llm(preference=[*PROFILE]).invoke("Why?")
    printed = capsys.readouterr().out
    assert "Why?" in printed
    watch.see("debug output", printed)
    assert watch.leaks == []
