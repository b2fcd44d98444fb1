"""Search methods, which generate several candidates per answer: beam search and best of n."""

import threading
from typing import Any

import torch
from langchain_core.messages import AIMessage
from transformers import GenerationConfig

from langchain_amulet.engine import SamplingParams
from langchain_amulet.evaluation.methods.method import Ask, Method
from langchain_amulet.exceptions import EngineMemoryError
from langchain_amulet.realignment import RealignmentConfig

_PROMPTED = RealignmentConfig.classifier_free_guidance(1.0)

_generating = threading.Lock()  # torch.manual_seed is global, and memory is planned for one search


def beam_search(num_beams: int = 16) -> Method:
    """Return beam search on the prompted policy, by transformers' `generate`. Above temperature 0, it samples."""

    def generate(ask: Ask) -> AIMessage:
        return _beam_search(ask, num_beams)

    return Method(f"beam search {num_beams}", generate, uses_engine=False, is_search=True)


def best_of(num_answers: int = 4, *, temperature: float = 0.7) -> Method:
    """Return a method that samples n answers from the prompted policy and keeps the one with most evidence.

    The evidence of an answer is the mean of log π_pref − log π_base over its tokens.

    Args:
        num_answers: n, the number of samples.
        temperature: Sampling temperature where the evaluation itself is greedy.
    """

    def generate(ask: Ask) -> AIMessage:
        sampling = {**ask.sampling, "temperature": ask.sampling.get("temperature") or temperature}
        seed = int(sampling.pop("seed", 0) or 0)
        samples = [
            ask.llm.invoke(ask.messages, preference=ask.preference, realignment=_PROMPTED, seed=seed + i, **sampling)
            for i in range(num_answers)
        ]
        evidence = [_evidence(ask, sample) for sample in samples]
        return samples[max(range(num_answers), key=evidence.__getitem__)]

    key = f"best of {num_answers}, drawn at {temperature:g} where greedy"
    return Method(f"best of {num_answers}", generate, decoding_key=key, is_search=True)


def _evidence(ask: Ask, answer: AIMessage) -> float:
    return ask.llm.evidence(ask.messages, answer.text, [ask.preference])[0] if answer.text.strip() else -torch.inf


@torch.inference_mode()
def _beam_search(ask: Ask, num_beams: int) -> AIMessage:
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
            msg = f"{num_beams} beams do not fit into memory. Use fewer beams, or lower max_tokens."
            raise EngineMemoryError(msg) from error
    token_ids = [token for token in output[0, len(prompt) :].tolist() if token not in config.eos_token_id]
    usage = {"input_tokens": len(prompt), "output_tokens": len(token_ids), "total_tokens": len(prompt) + len(token_ids)}
    reason = "length" if len(token_ids) >= config.max_new_tokens else "stop"
    text = str(loaded.tokenizer.decode(token_ids, skip_special_tokens=True))
    return AIMessage(text, usage_metadata=usage, response_metadata={"finish_reason": reason})


def _generation_config(sampling: SamplingParams, num_beams: int) -> GenerationConfig:
    """Translate sampling settings to those of transformers."""
    stop = sorted(sampling.stop_token_ids)
    options: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or 0}
    return GenerationConfig(
        num_beams=num_beams,
        max_new_tokens=sampling.max_tokens,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=stop,
        pad_token_id=stop[0] if stop else 0,
        **options,
    )
