"""Middleware for LangChain agents that personalises every model call for the user of the run."""

from collections.abc import Awaitable, Callable
from typing import Any, get_args

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.runnables import RunnableBinding

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.memory.sources import PreferenceSource
from langchain_amulet.personalization.entry_points import PersonalizedChatModel
from langchain_amulet.personalization.lookup import Lookup, OnStoreError, alook_up, find_lookup, look_up
from langchain_amulet.personalization.resolved import PreferenceArgument, ResolvedPreferences, resolve


class AmuletMiddleware(AgentMiddleware[Any, Any]):
    """Personalises the model calls of an agent with the preferences of the run's user.

    Without it, `ChatAmulet` also finds the user, if the agent runs with a store, and with a user id in its context or
    config. With it, each agent can have its own memory, default preference and `on_store_error`, so that several agents
    can share one model and use different preferences. Arguments that are left out are taken from the model.

    Preferences are looked up once per model call. Calls that already have a `preference=`, and calls of other chat
    models, are not changed. List the middleware after any that changes the model, such as `ModelFallbackMiddleware`.

    Args:
        memory: A `PreferenceMemory`, or a store for one. `None`: the model's memory, or the agent's store if the model
            has none.
        preference: The default for users without stored preferences. `None`: the model's default.
        on_store_error: If the store fails, `"raise"` its error, or answer without preferences (`"plain"`). `None`: the
            model's setting.

    Raises:
        StoreTypeError: `memory` is neither a `PreferenceMemory` nor a supported store.
        PreferenceError: `preference` is not a string, a `Preference` or a list of these.
        InvalidParameterError: `on_store_error` is neither `"raise"` nor `"plain"`.
    """

    def __init__(
        self,
        memory: PreferenceMemory | PreferenceSource = None,
        *,
        preference: PreferenceArgument = None,
        on_store_error: OnStoreError | None = None,
    ) -> None:
        super().__init__()
        if on_store_error not in (None, *get_args(OnStoreError)):
            msg = f'on_store_error must be "raise" or "plain", got {on_store_error!r}.'
            raise InvalidParameterError(msg)
        self._memory = as_memory(memory)
        self._default = None if preference is None else resolve(preference)
        self._on_store_error = on_store_error

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Look up the preferences of the run's user, and call the model with them."""
        if (model := _personalizable_model(request)) is None:
            return handler(request)
        return handler(_with_preferences(request, look_up(*self._lookup_arguments(model, request))))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async `wrap_model_call`."""
        if (model := _personalizable_model(request)) is None:
            return await handler(request)
        return await handler(_with_preferences(request, await alook_up(*self._lookup_arguments(model, request))))

    def _lookup_arguments(
        self, model: PersonalizedChatModel, request: ModelRequest[Any]
    ) -> tuple[Lookup | None, ResolvedPreferences, OnStoreError]:
        memory, default, on_store_error = model.preference_settings
        lookup = find_lookup(None, memory if self._memory is None else self._memory, request.runtime)
        default = default if self._default is None else self._default
        return lookup, default, self._on_store_error or on_store_error


def _personalizable_model(request: ModelRequest[Any]) -> PersonalizedChatModel | None:
    """Return the model of the call if it supports preferences and the call has none yet, else `None`."""
    model: Any = request.model
    settings = {*request.model_settings}
    while isinstance(model, RunnableBinding):
        settings |= {*model.kwargs}
        model = model.bound
    return model if isinstance(model, PersonalizedChatModel) and "preference" not in settings else None


def _with_preferences(request: ModelRequest[Any], resolved: ResolvedPreferences) -> ModelRequest[Any]:
    return request.override(model_settings={**request.model_settings, "preference": resolved})
