"""Methods that look at several answers before they give one: beam search and best of n."""

import threading
from typing import Any

import torch
from langchain_core.messages import AIMessage
from transformers import GenerationConfig

from langchain_amulet.engine import SamplingParams
from langchain_amulet.evaluation.methods.method import Ask, Method
from langchain_amulet.exceptions import EngineMemoryError
from langchain_amulet.realignment import RealignmentConfig

_PROMPTED = RealignmentConfig(guidance_scale=1.0, plausibility=0.0)

_generating = threading.Lock()  # the seed is torch's own, and memory that of one search


def beam_search(num_beams: int = 16) -> Method:
    """The prompted policy's likeliest answer, by transformers' `generate`; at a temperature, beams are drawn."""

    def answer(ask: Ask) -> AIMessage:
        return _generate(ask, num_beams)

    return Method(f"beam search {num_beams}", answer, is_engine=False, is_search=True)


def best_of(num_answers: int = 4, *, temperature: float = 0.7) -> Method:
    """Of some answers drawn from the prompted policy, the one that the preference makes likeliest per token.

    So the model judges itself, by mean log π_pref − log π_base; a reward model's judgement is another `Method` away.

    Args:
        num_answers: n.
        temperature: Of the draws where the run itself is greedy.
    """

    def answer(ask: Ask) -> AIMessage:
        sampling = {**ask.sampling, "temperature": ask.sampling.get("temperature") or temperature}
        seed = int(sampling.pop("seed", 0) or 0)
        drawn = [
            ask.llm.invoke(ask.messages, preference=ask.preference, realignment=_PROMPTED, seed=seed + i, **sampling)
            for i in range(num_answers)
        ]
        worth = [_evidence(ask, each) for each in drawn]
        return drawn[max(range(num_answers), key=worth.__getitem__)]

    run = f"best of {num_answers}, drawn at {temperature:g} where greedy"
    return Method(f"best of {num_answers}", answer, run=run, is_search=True)


def _evidence(ask: Ask, answer: AIMessage) -> float:
    return ask.llm.evidence(ask.messages, answer.text, [ask.preference])[0] if answer.text.strip() else -torch.inf


@torch.inference_mode()
def _generate(ask: Ask, num_beams: int) -> AIMessage:
    llm = ask.llm.model_copy(update={"realignment": _PROMPTED})
    loaded = llm.load()
    model: Any = loaded.model
    prompt = llm.prompt_streams(ask.messages, ask.preference)[-1]
    config = _generation_config(llm.sampling_params(**ask.sampling), num_beams)
    input_ids = torch.tensor([prompt], device=model.device)
    with _generating:
        torch.manual_seed(int(ask.sampling.get("seed") or 0))
        try:
            output = model.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=config)
        except torch.OutOfMemoryError as error:
            msg = f"{num_beams} beams do not fit into memory. Use fewer, or fewer max_tokens."
            raise EngineMemoryError(msg) from error
    token_ids = [token for token in output[0, len(prompt) :].tolist() if token not in config.eos_token_id]
    usage = {"input_tokens": len(prompt), "output_tokens": len(token_ids), "total_tokens": len(prompt) + len(token_ids)}
    reason = "length" if len(token_ids) >= config.max_new_tokens else "stop"
    text = str(loaded.tokenizer.decode(token_ids, skip_special_tokens=True))
    return AIMessage(text, usage_metadata=usage, response_metadata={"finish_reason": reason})


def _generation_config(sampling: SamplingParams, num_beams: int) -> Any:
    """The same settings that other methods draw with, in the words of transformers."""
    stop = sorted(sampling.stop_token_ids)
    drawing: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        drawing |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or 0}
    return GenerationConfig(
        num_beams=num_beams,
        max_new_tokens=sampling.max_tokens,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=stop,
        pad_token_id=stop[0] if stop else 0,
        **drawing,
    )
