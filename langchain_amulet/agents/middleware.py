"""Middleware for LangChain agents: every model call is personalised for the run's user."""

from collections.abc import Awaitable, Callable
from typing import Any, get_args

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.runnables import RunnableBinding

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.memory.sources import PreferenceSource
from langchain_amulet.personalization.entry_points import PersonalizedChatModel
from langchain_amulet.personalization.lookup import Lookup, OnStoreError, alook_up, find_lookup, look_up
from langchain_amulet.personalization.resolved import ResolvedPreferences, resolve


class AmuletMiddleware(AgentMiddleware[Any, Any]):
    """Lets every model call of an agent answer as the run's user prefers.

    `ChatAmulet` finds out by itself who is asking, where the agent runs with a store and a user id in its context or
    config. With this, the memory, the fallback and the policy for stores that fail are the agent's: one model may serve
    several agents that remember different things. What is left out here is as the model has it.

    Preferences are looked up once per model call. Calls that are given a `preference=` already, and calls of other chat
    models, are left as they are. List it after middleware that changes the model, such as `ModelFallbackMiddleware`,
    so that it sees which model is called.

    Args:
        memory: Where preferences are kept. `None`: in the model's memory, else in the agent's store.
        preference: What to prefer for users of whom nothing is remembered.
        on_store_error: `"raise"` the store's error, or answer without preferences (`"plain"`).

    Raises:
        StoreTypeError: `memory` is none, and no store either.
        PreferenceError: `preference` is none.
        InvalidParameterError: `on_store_error` is none of the two.
    """

    def __init__(
        self,
        memory: PreferenceMemory | PreferenceSource = None,
        *,
        preference: Any = None,
        on_store_error: OnStoreError | None = None,
    ) -> None:
        super().__init__()
        if on_store_error not in (None, *get_args(OnStoreError)):
            msg = f'on_store_error is "raise" or "plain", got {on_store_error!r}.'
            raise InvalidParameterError(msg)
        self._memory = as_memory(memory)
        self._default = None if preference is None else resolve(preference)
        self._on_store_error = on_store_error

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Look up what the run's user prefers, and call the model with it."""
        if (model := _model_to_prefer(request)) is None:
            return handler(request)
        return handler(_with(request, look_up(*self._question(model, request))))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async `wrap_model_call`."""
        if (model := _model_to_prefer(request)) is None:
            return await handler(request)
        return await handler(_with(request, await alook_up(*self._question(model, request))))

    def _question(
        self, model: PersonalizedChatModel, request: ModelRequest[Any]
    ) -> tuple[Lookup | None, ResolvedPreferences, OnStoreError]:
        memory, default, on_store_error = model.preference_settings
        lookup = find_lookup(None, memory if self._memory is None else self._memory, request.runtime)
        default = default if self._default is None else self._default
        return lookup, default, self._on_store_error or on_store_error


def _model_to_prefer(request: ModelRequest[Any]) -> PersonalizedChatModel | None:
    """The model to be called, if it knows preferences and has not been given any."""
    model: Any = request.model
    given = {*request.model_settings}
    while isinstance(model, RunnableBinding):
        given |= {*model.kwargs}
        model = model.bound
    return model if isinstance(model, PersonalizedChatModel) and "preference" not in given else None


def _with(request: ModelRequest[Any], resolved: ResolvedPreferences) -> ModelRequest[Any]:
    return request.override(model_settings={**request.model_settings, "preference": resolved})
