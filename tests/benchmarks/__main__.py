"""All benchmarks, as ratios measured in one run: `make bench`, or `make bench ARGS='--only serving'`.

The contenders alternate, so that drift of the machine affects all of them alike.
"""

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks import copying, costs, feedback, random_weights, realignment, serving, side_by_side, structure
from tests.benchmarks.machine import this_machine
from tests.benchmarks.report import Report
from tests.benchmarks.variants import DEFAULT_VARIANTS, VARIANTS

SECTIONS = {
    module.__name__.rpartition(".")[2]: module
    for module in (side_by_side, costs, copying, realignment, serving, structure, feedback)
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    add = parser.add_argument
    add(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"run these sections only: {', '.join(SECTIONS)}"
    )
    add("--model", help="hub id, folder or GGUF file (default: the packaged SmolLM2-135M-Instruct)")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16", "float16"), help="default: float32 and bfloat16 on CPUs")
    add("--variants", nargs="+", choices=VARIANTS, default=DEFAULT_VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    add("--users", type=int, nargs="+", help="numbers of concurrent users")
    add("--tokens", type=int, default=96, help="tokens per answer")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, help="threads of torch and of llama.cpp (default: torch's own)")
    add("--folder", type=Path, default=Path("build/bench"), help="where bench.md, bench.json and bench.png are written")
    add("--every", type=int, default=1, help="section structure: use every n-th question")
    add("--picture", type=Path, help="section feedback: file for the plot (.svg, .png)")
    add("--resample", action="store_true", help="section feedback: sample its answers again (tests/data)")
    add("--random-weights", choices=random_weights.CONFIGS, help="an architecture with weights drawn on the device")
    return parser


@torch.no_grad()
def main(words: Sequence[str] | None = None) -> None:
    """Run the chosen sections, and write the report."""
    arguments = parser().parse_args(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = Report(this_machine(), vars(arguments))
    if arguments.random_weights:
        random_weights.run(arguments, report)
    else:
        for name in arguments.only or SECTIONS:
            report.say(f"\n## {name}")
            SECTIONS[name].run(arguments, report)
            gc.collect()  # frees the models of the section
    for path in report.write(arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
