"""Reward models: sequence classifiers that read a question, a preference and an answer, and give it a number."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaModel,
    LlamaPreTrainedModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.exceptions import ChatTemplateError, InvalidParameterError, ModelLoadError
from langchain_amulet.models.defaults import default_device, default_dtype

ARMORM = "RLHFlow/ArmoRM-Llama3-8B-v0.1"
"""19 rewards; the paper uses the one of index 6, UltraFeedback's instruction following."""
ARMORM_INSTRUCTION_FOLLOWING = 6
SKYWORK = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
"""Small, good on RewardBench 2, and of another family than the models of the paper (arXiv 2507.01352)."""


class ArmoRM(LlamaPreTrainedModel):
    """The rewards of ArmoRM: a Llama with one linear layer over its last token.

    The code that comes with its weights does not import under transformers 5, and need not be trusted for this: the
    mixture that it learns of the rewards, which no score of the paper uses, is left out.

    References:
        Wang et al., Interpretable preferences via multi-objective reward modeling, 2024: https://arxiv.org/abs/2406.12845
    """

    _keys_to_ignore_on_load_unexpected = [r"gating\..*", "reward_transform_matrix"]  # noqa: RUF012 - as transformers has it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.num_rewards = getattr(config, "num_objectives", 19)
        self.regression_layer = nn.Linear(config.hidden_size, self.num_rewards, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """The rewards of each conversation, `(B, 19)`; without padding on the right."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, -1]
        return SimpleNamespace(rewards=self.regression_layer(hidden))


class RewardModel:
    """A reward model, loaded when it is first asked, or by `load`.

    It reads question and preference as one message, as the paper's script puts them, and the whole answer: the script
    cuts them off at 128 tokens together.

    Args:
        model: A hub id, a folder or a loaded model with a classification head.
        tokenizer: Its tokenizer, with a chat template; `None` loads the one of `model`.
        head: Which of several rewards counts. `None`: the only one.
        model_kwargs: For `from_pretrained`, such as `{"device_map": "auto"}`. Without it, the model goes where
            `ChatAmulet` puts its own.
        architecture: The class that loads `model`.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        head: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        architecture: Any = AutoModelForSequenceClassification,
    ) -> None:
        self._source, self._head = model, head
        self._tokenizer: Any = tokenizer
        self._model_kwargs, self._architecture = dict(model_kwargs or {}), architecture
        self._model: Any = None if isinstance(model, str) else model

    @classmethod
    def armorm(cls, model: str = ARMORM, **model_kwargs: Any) -> "RewardModel":
        """ArmoRM's reward for following instructions, as in the paper's main table."""
        return cls(model, head=ARMORM_INSTRUCTION_FOLLOWING, model_kwargs=model_kwargs, architecture=ArmoRM)

    def scorer(self, name: str = "reward") -> Scorer:
        """As a scorer of answers."""
        source = self._source if isinstance(self._source, str) else self._source.name_or_path
        return Scorer(
            name,
            lambda answer: self.reward(answer.question, answer.preference, answer.text),
            better="higher",
            is_kept=True,
            identity=f"{source} {self._head}",
            is_reward=True,
        )

    @torch.inference_mode()
    def reward(self, question: str, preference: str, answer: str) -> float:
        """One answer's reward.

        Raises:
            InvalidParameterError: The model gives several rewards and `head` names none of them.
            ChatTemplateError: The tokenizer has no chat template.
            ModelLoadError: The model cannot be loaded.
        """
        self.load()
        asked = "\n".join(filter(None, (question, preference)))
        conversation = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        inputs = self._tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
        rewards = _rewards(self._model(**inputs.to(self._model.device)))
        return float(rewards[self._checked_head(rewards)])

    def load(self) -> None:
        """Load it now, so that what is wrong with it shows before anything is asked of it.

        Raises:
            ChatTemplateError: The tokenizer has no chat template.
            ModelLoadError: The model cannot be loaded, or is no reward model.
            InvalidParameterError: It gives several rewards and `head` names none of them.
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
            msg = (
                "The reward model's tokenizer has no chat template. Pass a tokenizer whose chat_template you have set."
            )
            raise ChatTemplateError(msg)

    def _loaded_model(self) -> Any:
        device = default_device()
        kwargs = {"dtype": default_dtype(device), **self._model_kwargs}
        model, told = self._architecture.from_pretrained(self._source, output_loading_info=True, **kwargs)
        if missing := sorted(told["missing_keys"]):
            msg = f"{self._source} is no reward model: it has no {', '.join(missing)}."
            raise ModelLoadError(msg)
        self._checked_head(torch.zeros(getattr(model, "num_rewards", model.config.num_labels)))
        return model.eval() if "device_map" in kwargs else model.eval().to(device)

    def _checked_head(self, rewards: Tensor) -> int:
        head = 0 if self._head is None and len(rewards) == 1 else self._head
        if head is None or not 0 <= head < len(rewards):
            msg = f"The reward model gives {len(rewards)} rewards; head={self._head!r} names none of them."
            raise InvalidParameterError(msg)
        return head


def _rewards(output: Any) -> Tensor:
    """Of one answer: ArmoRM tells several under a name of its own, others as logits."""
    rewards = getattr(output, "rewards", None)
    found: Tensor = (output.logits if rewards is None else rewards)[0].float()
    return found
