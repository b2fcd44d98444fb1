"""How likely a given text is under each of several prompts, without drawing anything."""

import contextlib
import inspect
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langchain_amulet.engine.devices import is_out_of_memory
from langchain_amulet.engine.failures import caused, failure_of
from langchain_amulet.exceptions import AmuletError, EngineMemoryError

_CHUNK = 64  # tokens whose whole distributions are held in float32 at once


class Scoring:
    """A text to be scored: one forward for each prompt, between the steps of the requests under way.

    Args:
        prompts: Token ids of each stream, none empty.
        token_ids: Those of the text, at least one.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.token_ids = list(token_ids)
        self.future: Future[Tensor] = Future()
        """Log-probabilities in nats, `(streams, tokens)`, float32 on the CPU."""
        self._scored: list[Tensor] = []

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do, or nobody waits for it any more."""
        return self.future.done()

    def step(self, model: PreTrainedModel) -> None:
        """Score the text under the next prompt; what the model raises is told to who waits."""
        try:
            prompt = self.prompts[len(self._scored)]
            self._scored.append(token_logprobs(model, prompt, self.token_ids))
        except Exception as error:  # noqa: BLE001
            self.fail(self._failure_of(error))
            return
        if len(self._scored) == len(self.prompts):
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(torch.stack(self._scored))

    def _failure_of(self, error: Exception) -> AmuletError:
        if not is_out_of_memory(error):
            return failure_of(error)
        num_tokens = max(map(len, self.prompts)) + len(self.token_ids)
        msg = f"A forward of {num_tokens} tokens takes more memory than there is. Score a shorter text."
        return caused(EngineMemoryError(msg), error)

    def fail(self, error: BaseException) -> None:
        """Tell who waits, unless it is done or nobody does."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


@torch.inference_mode()
def token_logprobs(model: PreTrainedModel, prompt: Sequence[int], token_ids: Sequence[int]) -> Tensor:
    """The log-probability of each token of a text after a prompt, `(tokens,)`, in nats, float32 on the CPU."""
    num_tokens = len(token_ids)
    input_ids = torch.tensor([[*prompt, *token_ids]], device=model.device)
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    # The last logits are of what would come after the text.
    output = model(input_ids, use_cache=False, **({"logits_to_keep": num_tokens + 1} if keeps else {}))
    logits = output.logits[0, -num_tokens - 1 : -1]  # (tokens, V)
    targets = input_ids[0, -num_tokens:].to(logits.device)
    picked = [
        chunk.float().log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        for chunk, wanted in zip(torch.split(logits, _CHUNK), torch.split(targets, _CHUNK), strict=True)
    ]
    return torch.cat(picked).cpu()
