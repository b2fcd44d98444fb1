"""A LangChain chat model that answers each user by their own preferences, from one local model.

Importing this package is fast, because torch and transformers are imported on first access to a name that needs them.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_amulet.chat_models import ChatAmulet
    from langchain_amulet.engine.config import EngineConfig
    from langchain_amulet.engine.engine import Engine
    from langchain_amulet.exceptions import AmuletError
    from langchain_amulet.memory.preference_memory import PreferenceMemory
    from langchain_amulet.preferences import Preference
    from langchain_amulet.realignment import RealignmentConfig, guidance_scale, realign

__all__ = [
    "AmuletError",
    "ChatAmulet",
    "Engine",
    "EngineConfig",
    "Preference",
    "PreferenceMemory",
    "RealignmentConfig",
    "__version__",
    "guidance_scale",
    "realign",
]

__version__ = version("langchain-amulet")

_MODULES = {
    "AmuletError": "exceptions",
    "ChatAmulet": "chat_models",
    "Engine": "engine.engine",
    "EngineConfig": "engine.config",
    "Preference": "preferences",
    "PreferenceMemory": "memory",
    "RealignmentConfig": "realignment",
    "guidance_scale": "realignment",
    "realign": "realignment",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
