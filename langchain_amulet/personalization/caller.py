"""Which user makes a call."""

from collections.abc import Mapping
from typing import Any

from langchain_amulet.exceptions import UserIdError

AUTHENTICATED_USER_KEY = "langgraph_auth_user"
"""Where LangGraph's server stores the authenticated user in `configurable`."""


def user_id_of(configurable: Mapping[str, Any], runtime: object) -> str | None:
    """The user id of a call.

    It is the identity that the LangGraph platform has authenticated, else `configurable["user_id"]`, else `user_id` of
    the LangGraph run's context, else `None`.

    Args:
        configurable: The `configurable` part of the call's config.
        runtime: The LangGraph runtime, or `None` outside a run.

    Raises:
        UserIdError: The user id is not a string, or differs from the authenticated one.
    """
    claimed = configurable.get("user_id")
    authenticated = _authenticated_identity(configurable, runtime)
    if authenticated is not None:
        if claimed not in (None, authenticated):
            msg = (
                "configurable['user_id'] differs from the user that the platform has authenticated. "
                "Leave it out, or pass the authenticated identity."
            )
            raise UserIdError(msg)
        return authenticated
    user_id = claimed if claimed is not None else _get(getattr(runtime, "context", None), "user_id")
    if user_id is not None and not isinstance(user_id, str):
        msg = f"A user id must be a string, got {type(user_id).__name__}. Convert it, for example by str(user_id)."
        raise UserIdError(msg)
    return user_id


def _authenticated_identity(configurable: Mapping[str, Any], runtime: object) -> str | None:
    of_run: str | None = _get(getattr(getattr(runtime, "server_info", None), "user", None), "identity")
    of_config: str | None = _get(configurable.get(AUTHENTICATED_USER_KEY), "identity")
    if None not in (of_run, of_config) and of_run != of_config:
        msg = f"configurable[{AUTHENTICATED_USER_KEY!r}] differs from the authenticated user of the run. Leave it out."
        raise UserIdError(msg)
    return of_config if of_run is None else of_run


def _get(source: object, name: str) -> Any:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
