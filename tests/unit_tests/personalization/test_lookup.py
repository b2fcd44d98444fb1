"""Who is asking, and what travels on."""

import time
from types import SimpleNamespace

import pytest
from langgraph.store.memory import InMemoryStore

from langchain_amulet.exceptions import UserIdError
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.memory.recall_cache import caches
from langchain_amulet.personalization.lookup import Lookup, alook_up, find_lookup, look_up
from langchain_amulet.personalization.resolved import preferences_of, resolve
from langchain_amulet.preferences import Preference

MEMORY = PreferenceMemory()


def config(
    user_id: object = None, *, context: object = None, store: object = None, user: object = None, **configurable: object
):
    runtime = SimpleNamespace(context=context, store=store, server_info=SimpleNamespace(user=user))
    given = {} if user_id is None else {"user_id": user_id}
    return {"configurable": {**given, "__pregel_runtime": runtime, **configurable}}


def user_of(given) -> str | None:
    lookup = find_lookup(given, MEMORY)
    return lookup and lookup.user_id


def test_no_user_no_lookup():
    assert find_lookup(None, MEMORY) is None
    assert find_lookup({}, MEMORY) is None
    assert find_lookup(config(), MEMORY) is None
    assert find_lookup({"configurable": {"user_id": "alice"}}, None) is None


def test_config_may_be_sparse():
    assert user_of({"configurable": None}) is None
    assert user_of({"user_id": "alice"}) == "alice"  # LangChain moves it into configurable


def test_user_of_the_config_comes_before_that_of_the_context():
    assert user_of({"configurable": {"user_id": "alice"}}) == "alice"
    assert user_of(config(context={"user_id": "bob"})) == "bob"
    assert user_of(config(context=SimpleNamespace(user_id="bob"))) == "bob"
    assert user_of(config("alice", context={"user_id": "bob"})) == "alice"


@pytest.mark.parametrize("user", [SimpleNamespace(identity="carol"), {"identity": "carol"}])
def test_authenticated_user_counts_and_contradicting_them_is_an_error(user):
    for given in (
        config(user=user),
        config(langgraph_auth_user=user),
        config("carol", user=user),
        config(user=user, context={"user_id": "x"}),
    ):
        assert user_of(given) == "carol"
    with pytest.raises(UserIdError, match="differs from the user that the platform has authenticated"):
        find_lookup(config("mallory", user=user), MEMORY)
    with pytest.raises(UserIdError, match="differs from the authenticated user of the run"):
        find_lookup(config(user=user, langgraph_auth_user={"identity": "mallory"}), MEMORY)


@pytest.mark.parametrize("user_id", [7, ["alice"], b"alice"])
def test_user_id_that_is_no_string_is_refused(user_id):
    with pytest.raises(UserIdError, match="str\\(user_id\\)"):
        find_lookup(config(user_id), MEMORY)


def test_store_of_the_run_serves_where_there_is_no_memory():
    store = InMemoryStore()
    assert find_lookup(config("alice", store=store), None).memory.store is store
    assert find_lookup(config("alice", store=store), MEMORY).memory is MEMORY


# Looking up


class Unreachable(InMemoryStore):
    def batch(self, _ops):
        raise ConnectionError("I am diabetic.")  # noqa: EM101, TRY003

    abatch = batch


@pytest.fixture(params=["sync", "async"])
def looked_up(request):
    """`look_up` or `alook_up`, to be awaited."""

    async def look(memory, user_id="alice", default=None, on_store_error="raise"):
        arguments = (memory and Lookup(memory, user_id), resolve(default), on_store_error)
        return look_up(*arguments) if request.param == "sync" else await alook_up(*arguments)

    return look


async def test_what_is_remembered_comes_before_the_default(looked_up):
    memory = PreferenceMemory({"alice": "a"})
    assert await looked_up(memory, default="b") == resolve("a")
    assert await looked_up(memory, "bob", default="b") == resolve("b")
    assert await looked_up(None, default="b") == resolve("b")


async def test_store_that_fails_raises_or_gives_a_plain_answer_that_says_so(looked_up, caplog):
    memory = PreferenceMemory(Unreachable(), cache_seconds=60)
    with pytest.raises(ConnectionError):
        await looked_up(memory, default="b")
    found = await looked_up(memory, default="b", on_store_error="plain")
    assert "could not be read (ConnectionError)" in caplog.text
    assert not found
    assert found.notes == {"store_error": "ConnectionError"}
    assert found != resolve(None)  # nor do they share cached answers
    assert "diabetic" not in repr(found) + caplog.text
    again = await looked_up(memory, on_store_error="plain")  # a failure is not cached as the content of the store
    assert again.store_error == "ConnectionError"


async def test_wrong_user_id_is_no_failure_of_the_store(looked_up):
    with pytest.raises(UserIdError):
        await looked_up(PreferenceMemory(), "", on_store_error="plain")


async def test_preferences_that_were_read_before_are_flagged_by_their_age(looked_up):
    memory = PreferenceMemory({"alice": "a"}, cache_seconds=60)
    assert (await looked_up(memory)).notes == {}
    caches.of(memory.store)._clock = lambda: time.monotonic() + 30
    found = await looked_up(memory)
    assert found.notes == {"preferences_age_s": pytest.approx(30, abs=1)}
    assert preferences_of(found) == (Preference("a"),)
    assert found != resolve("a")  # so that a response cache serves nobody an answer that says another age
    bob = await looked_up(memory, "bob", default="b")
    assert bob.notes == {}
    caches.of(memory.store)._clock = lambda: time.monotonic() + 100
    assert (await looked_up(memory)).notes == {}
