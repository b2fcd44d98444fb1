"""LangChain's standard integration tests of chat models, on the packaged SmolLM2-135M-Instruct."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_amulet import ChatAmulet


class TestChatAmulet(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatAmulet]:
        return ChatAmulet

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model_kwargs": {"dtype": "float32"}, "max_tokens": 64, "timeout": 240}

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def returns_usage_metadata(self) -> bool:
        return True

    @pytest.mark.xfail(
        reason="Left the choice, a model of 135M parameters makes up the weather in place of calling the tool.",
    )
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)
