"""Reward models: sequence classifiers that score an answer to a question for a preference."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    LlamaPreTrainedModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.exceptions import ChatTemplateError, InvalidParameterError, ModelLoadError
from langchain_amulet.models.defaults import default_device, default_dtype

ARMORM = "RLHFlow/ArmoRM-Llama3-8B-v0.1"
"""Has 19 rewards. The paper uses the one with index 6, instruction following of UltraFeedback."""
ARMORM_INSTRUCTION_FOLLOWING = 6
SKYWORK = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
"""A small reward model with a good rank on RewardBench 2, of another family than the paper's (arXiv 2507.01352)."""


class ArmoRM(LlamaPreTrainedModel):
    """ArmoRM without its gating network: a Llama with a linear layer on the last token, which gives 19 rewards.

    The code that is published with the weights does not import with transformers 5, and would need
    `trust_remote_code`. The gating network, which mixes the rewards into one score, is not used in the paper.

    References:
        Wang et al., Interpretable preferences via multi-objective reward modeling, 2024: https://arxiv.org/abs/2406.12845
    """

    _keys_to_ignore_on_load_unexpected = [r"gating\..*", "reward_transform_matrix"]  # noqa: RUF012 - as in transformers

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.num_rewards = getattr(config, "num_objectives", 19)
        self.regression_layer = nn.Linear(config.hidden_size, self.num_rewards, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """Return the rewards of each conversation, `(B, 19)`. The input must not be padded on the right."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, -1]
        return SimpleNamespace(rewards=self.regression_layer(hidden))


class RewardModel:
    """A reward model. `load` loads it; otherwise it is loaded when it scores the first answer.

    As in the paper's script, question and preference are one user message. Unlike there, the input is not truncated
    (the script truncates it to 128 tokens).

    Args:
        model: A hub id, a folder, or a loaded model with a classification head.
        tokenizer: A tokenizer with a chat template. `None` loads the one of `model`.
        head: Index of the reward to use. `None` requires a model with one reward.
        model_kwargs: Keyword arguments of `from_pretrained`. Without `device_map`, the model is placed on the same
            device as a `ChatAmulet`.
        architecture: The class whose `from_pretrained` loads `model`.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        head: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        architecture: type[PreTrainedModel | AutoModelForSequenceClassification] = AutoModelForSequenceClassification,
    ) -> None:
        self._source, self._head = model, head
        self._tokenizer: Any = tokenizer
        self._model_kwargs = dict(model_kwargs or {})
        self._architecture: Any = architecture
        self._model: Any = None if isinstance(model, str) else model

    @classmethod
    def armorm(cls, model: str = ARMORM, **model_kwargs: Any) -> "RewardModel":
        """Create ArmoRM with its reward of instruction following, as in the paper's main table."""
        return cls(model, head=ARMORM_INSTRUCTION_FOLLOWING, model_kwargs=model_kwargs, architecture=ArmoRM)

    def scorer(self, name: str = "reward") -> Scorer:
        """Return a scorer of answers."""
        source = self._source if isinstance(self._source, str) else self._source.name_or_path
        return Scorer(
            name,
            lambda answer: self.reward(answer.question, answer.preference, answer.text),
            better="higher",
            is_stored=True,
            identity=f"{source} {self._head}",
            is_reward=True,
        )

    @torch.inference_mode()
    def reward(self, question: str, preference: str, answer: str) -> float:
        """Return the reward of one answer.

        Raises:
            InvalidParameterError: The model has no reward with index `head`, or several and `head` is `None`.
            ChatTemplateError: The tokenizer has no chat template.
            ModelLoadError: The model cannot be loaded.
        """
        self.load()
        request = "\n".join(filter(None, (question, preference)))
        conversation = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        inputs = self._tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
        rewards = _rewards(self._model(**inputs.to(self._model.device)))
        return float(rewards[self._checked_head(rewards)])

    def load(self) -> None:
        """Load the model and the tokenizer, and check them. Later calls do nothing.

        Raises:
            ChatTemplateError: The tokenizer has no chat template.
            ModelLoadError: The model cannot be loaded, or is not a reward model.
            InvalidParameterError: The model has no reward with index `head`, or several and `head` is `None`.
        """
        try:
            if self._model is None:
                self._model = self._loaded_model()
            if self._tokenizer is None:
                self._tokenizer = AutoTokenizer.from_pretrained(self._source)
        except (OSError, RuntimeError, ImportError) as error:
            msg = f"The reward model {self._source} cannot be loaded: {error}"
            raise ModelLoadError(msg) from error
        if not self._tokenizer.chat_template:
            msg = "The tokenizer of the reward model has no chat template. Pass a tokenizer with chat_template set."
            raise ChatTemplateError(msg)

    def _loaded_model(self) -> Any:
        device = default_device()
        kwargs = {"dtype": default_dtype(device), **self._model_kwargs}
        model, info = self._architecture.from_pretrained(self._source, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            msg = f"{self._source} is not a reward model: its weights lack {', '.join(missing)}."
            raise ModelLoadError(msg)
        self._checked_head(torch.zeros(getattr(model, "num_rewards", model.config.num_labels)))
        return model.eval() if "device_map" in kwargs else model.eval().to(device)

    def _checked_head(self, rewards: Tensor) -> int:
        head = 0 if self._head is None and len(rewards) == 1 else self._head
        if head is None or not 0 <= head < len(rewards):
            msg = f"head must be an index below {len(rewards)}, the number of rewards of the model, got {self._head!r}."
            raise InvalidParameterError(msg)
        return head


def _rewards(output: Any) -> Tensor:
    """Return the rewards of one answer: `output.rewards` of ArmoRM, `output.logits` of other models."""
    rewards: Tensor | None = getattr(output, "rewards", None)
    return (output.logits if rewards is None else rewards)[0].float()
