"""LangChain's standard integration tests of chat models, on a tiny random model and on the packaged one."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_amulet import ChatAmulet
from tests.fakes.roomy import roomy_model, tokenizer_of

# They ask for arguments that only a trained model gets right.
NEED_TRAINING = {"test_tool_calling", "test_tool_calling_async", "test_unicode_tool_call_integration"}
ON_PACKAGED_MODEL = {*NEED_TRAINING, "test_conversation", "test_stream", "test_structured_output"}


class StandardTests(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatAmulet]:
        return ChatAmulet

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


class TestTinyModel(StandardTests):
    """Grammars make even a random model call tools and fill in objects."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": roomy_model(), "tokenizer": tokenizer_of("qwen2.5"), "max_tokens": 200}

    @pytest.fixture(autouse=True)
    def not_those_that_need_training(self, request) -> None:
        if request.node.originalname in {*NEED_TRAINING, "test_agent_loop"}:
            pytest.skip("a random model makes up the arguments of tools, or calls none")


class TestPackagedModel(StandardTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model_kwargs": {"dtype": "float32"}, "max_tokens": 64, "timeout": 240}

    @pytest.fixture(autouse=True)
    def few_unless_campaign(self, request, is_campaign) -> None:
        if not is_campaign and request.node.originalname not in ON_PACKAGED_MODEL:
            pytest.skip("takes minutes on this model, and runs on a random one: make campaign")

    @pytest.mark.xfail(
        reason="Left the choice, a model of 135M parameters makes up the weather in place of calling the tool.",
    )
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)
