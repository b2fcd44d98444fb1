"""Determines the user id of a call from its config and the LangGraph runtime."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from langchain_amulet.exceptions import UserIdError

AUTHENTICATED_USER_KEY = "langgraph_auth_user"
"""Where LangGraph's server stores the authenticated user in `configurable`."""


GROUP_KEY = "prefix_group"
"""Where the config's `configurable` names the group that shares prompt prefixes."""


class Caller(NamedTuple):
    """Who makes a call."""

    user_id: str | None = None
    """`None`: a caller without a user id; all of them count as one user."""
    group: str | None = None
    """The group whose calls may share prompt prefixes."""


def group_of(configurable: Mapping[str, Any]) -> str | None:
    """Return the group of a call, `configurable["prefix_group"]`, or `None`.

    Raises:
        UserIdError: It is not a string, or it is empty.
    """
    group = configurable.get(GROUP_KEY)
    if group == "":  # else all whose group is missing would share one
        msg = f"configurable[{GROUP_KEY!r}] is empty. Leave it out for a call without a group."
        raise UserIdError(msg)
    if group is not None and not isinstance(group, str):
        msg = f"configurable[{GROUP_KEY!r}] must be a string, got {type(group).__name__}. Convert it by str()."
        raise UserIdError(msg)
    return group


def user_id_of(configurable: Mapping[str, Any], runtime: object) -> str | None:
    """Return the user id of a call, or `None`.

    The id is the identity that the LangGraph platform has authenticated, else `configurable["user_id"]`, else `user_id`
    of the LangGraph run's context.

    Args:
        configurable: The `configurable` part of the call's config.
        runtime: The LangGraph runtime, or `None` outside a run.

    Raises:
        UserIdError: The user id is not a string or differs from the authenticated one, or the config and the run have
            different authenticated users.
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
    run_identity: str | None = _get(getattr(getattr(runtime, "server_info", None), "user", None), "identity")
    config_identity: str | None = _get(configurable.get(AUTHENTICATED_USER_KEY), "identity")
    if None not in (run_identity, config_identity) and run_identity != config_identity:
        msg = f"configurable[{AUTHENTICATED_USER_KEY!r}] differs from the authenticated user of the run. Leave it out."
        raise UserIdError(msg)
    return config_identity if run_identity is None else run_identity


def _get(source: object, name: str) -> Any:
    """Return an item of a mapping or an attribute of another object; `None` if it has none of that name."""
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
