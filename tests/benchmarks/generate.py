"""The contenders of transformers: `generate` with the plain prompt, with the preference in it, and with CFG."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from langchain_amulet import RealignmentConfig
from tests.benchmarks.contenders import GENERATE, ONE_PREFERENCE, PLAIN, PROMPTED, Contender, Stamps, stamped
from tests.benchmarks.machine import weight_bytes

CFG = "transformers CFG"


class Clock(BaseStreamer):
    """Notes when `generate` has drawn each token of the batch."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, value: object) -> None:
        """Note the time; the first call brings the prompt."""
        self.stamps += stamped([value])

    def end(self) -> None:
        """Do nothing."""


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask, `(B, S)`."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def contenders(model: PreTrainedModel, streams: Sequence[Sequence[list[int]]], num_tokens: int) -> list[Contender]:
    """Return the contenders. Several users are one batch, padded on the left.

    Args:
        model: The model as transformers loads it.
        streams: For each user in turn, the prompt without and the prompt with the preference.
        num_tokens: The length of all answers.
    """
    generating: Any = model
    limits = {"max_new_tokens": num_tokens, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}

    def answer(stream: int, num_users: int, *, cfg: bool = False) -> Stamps:
        rows = [streams[user % len(streams)] for user in range(num_users)]
        ids, mask = left_padded([row[stream] for row in rows], model.device)
        guidance = {}
        if cfg:
            negative, negative_mask = left_padded([row[0] for row in rows], model.device)
            guidance = {
                "guidance_scale": RealignmentConfig.paper().guidance_scale,
                "negative_prompt_ids": negative,
                "negative_prompt_attention_mask": negative_mask,
            }
        clock = Clock()
        generating.generate(ids, attention_mask=mask, streamer=clock, **limits, **guidance)
        return [clock.stamps[1:]] * num_users

    size = weight_bytes(model)
    return [
        Contender(GENERATE, PLAIN, partial(answer, 0), size),
        Contender(GENERATE, PROMPTED, partial(answer, 1), size),
        Contender(CFG, ONE_PREFERENCE, partial(answer, 1, cfg=True), size, num_reads=2),
    ]
