"""A tool and an object that users ask for, and errors as logs print them, to be searched for secrets."""

import traceback
from collections.abc import Sequence
from typing import Literal

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from pydantic import BaseModel

from tests.fakes.leak_watch import (
    User,
)


class Mood(BaseModel):
    """How to answer."""

    tone: Literal["calm", "glad", "stern", "warm"]


def past_questions(users: Sequence[User]) -> BaseTool:
    asked = {user.id: user.question for user in users}

    @tool
    def past_question(tone: Literal["calm", "glad", "stern", "warm"], config: RunnableConfig) -> str:  # noqa: ARG001
        """Tell what this user has asked before."""
        return asked[config["configurable"]["user_id"]]

    return past_question


def printed_error(error: BaseException) -> str:
    """The text of an error as it appears in logs."""
    return "".join(traceback.format_exception(error)) + repr(error)
