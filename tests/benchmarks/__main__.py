"""All benchmarks, as ratios measured in one run: `make bench`, or `make bench ARGS='--only serving'`.

The contenders alternate, so that drift of the machine affects all of them alike.
"""

import argparse
from pathlib import Path

import torch

from tests.benchmarks import chat_huggingface, decoding, feedback, random_weights, realignment, serving, structure
from tests.benchmarks.models import packaged_model


def main() -> None:
    """Run the chosen sections, and print their tables."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    sections = {
        module.__name__.rpartition(".")[2]: module
        for module in (decoding, realignment, serving, structure, feedback, chat_huggingface)
    }
    parser.add_argument("--only", choices=sections, help="run this section only")
    parser.add_argument("--tokens", type=int, default=96, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="section structure: use every n-th question")
    parser.add_argument("--picture", type=Path, help="section feedback: file for the plot (.svg, .png)")
    parser.add_argument(
        "--resample", action="store_true", help="section feedback: sample its answers again (tests/data)"
    )
    parser.add_argument(
        "--users", type=int, nargs="+", help="numbers of concurrent users (default: 8 24; random weights: 1 4 16 64)"
    )
    parser.add_argument("--model", help="hub id, folder or GGUF file (default: the packaged SmolLM2-135M-Instruct)")
    parser.add_argument(
        "--random-weights",
        choices=random_weights.CONFIGS,
        help="measure this architecture with random weights, which are drawn on the device",
    )
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.random_weights:
        random_weights.run(arguments)
        return
    llm = packaged_model(arguments.model)
    for name, module in sections.items():
        if arguments.only in (None, name):
            module.run(llm, arguments)


if __name__ == "__main__":
    main()
