"""The contender of llama.cpp, where its Python bindings are installed: one user, the GGUF file's own weights."""

import itertools
from pathlib import Path

import torch

from tests.benchmarks.contenders import PLAIN, Contender, NotAvailableError, Stamps, stamped

NAME = "llama.cpp"


def contenders(path: Path, prompt: list[int], num_tokens: int) -> list[Contender]:
    """Return the contender.

    Args:
        path: The file or folder of the model.
        prompt: The token ids of the plain prompt.
        num_tokens: The length of all answers.

    Raises:
        NotAvailableError: The bindings are not installed, or the model is no GGUF file.
    """
    if path.suffix != ".gguf":
        msg = "it reads GGUF files only; pass one as --model"
        raise NotAvailableError(msg)
    try:
        from llama_cpp import Llama
    except ImportError:
        msg = "pip install llama-cpp-python (compiles for some minutes)"
        raise NotAvailableError(msg) from None
    threads = torch.get_num_threads()
    length = len(prompt) + num_tokens + 1
    llama = Llama(str(path), n_ctx=length, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answer(_: int) -> Stamps:
        llama.reset()  # otherwise it would reuse the keys and values of the same prompt
        return [stamped(itertools.islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), num_tokens))]

    return [Contender(f"{NAME}, {path.name}", PLAIN, answer, path.stat().st_size, most_users=1)]
