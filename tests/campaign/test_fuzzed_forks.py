"""A process forks at any moment of fuzzed calls; the child's answers and the parent's are right."""

import json
import os
import subprocess
import sys

import pytest

from tests.fakes.figures import count

# One process of its own per seed: `pytest` itself must not be forked while it has threads.
SCRIPT = """
import json, os, sys, threading, warnings
from langchain_amulet import PreferenceMemory, RealignmentConfig
from tests.fakes.fuzzed_calls import Call
from tests.fakes.fuzzed_models import fuzzed_llm
from tests.fakes.reference_answers import differs, expected_outcome, outcome_of
from langchain_core.messages import HumanMessage

warnings.simplefilter("ignore")  # newer Pythons warn of forks in processes with threads
seed = int(sys.argv[1])
memory = PreferenceMemory(cache_seconds=[0, 60][seed % 2])
memory.remember("ann", "Be brief.")
memory.remember("bob", "Be cheerful!", -0.5)
llm = fuzzed_llm("llama", memory=memory, max_tokens=6, realignment=RealignmentConfig(guidance_scale=3.0))

def faults():
    found = []
    for user in ("ann", "bob", "nobody"):
        call = Call([HumanMessage("Why?")], {}, memory.recall(user))
        answer = llm.invoke(call.messages, {"configurable": {"user_id": user}})
        found.append(differs(outcome_of(answer), expected_outcome(llm, call)))
    return [fault for fault in found if fault]

first = faults() if seed % 3 else []
busy = [threading.Thread(target=lambda: [llm.invoke("Go on.", max_tokens=40) for _ in range(2)]) for _ in range(seed % 4)]
for thread in busy:
    thread.start()
stream = llm.stream("Tell me.", max_tokens=60)
next(stream)
reader, writer = os.pipe()
if not os.fork():
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        json.dump(faults(), out)
    os._exit(0)
os.close(writer)
with os.fdopen(reader) as source:
    child = source.read()
os.wait()
assert sum(1 for _ in stream) > 0
for thread in busy:
    thread.join()
print(json.dumps({"parent": first + faults(), "child": json.loads(child or '["no answer"]')}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_and_parents_answer_right(is_campaign, progress):
    seeds = range(60 if is_campaign else 1)
    several_threads = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
    }  # GNU's OpenMP hangs in the child of a process that had them
    for seed in progress.of(seeds, len(seeds), "forks"):
        command = [sys.executable, "-c", SCRIPT, str(seed)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=several_threads)
        assert run.returncode == 0, f"seed {seed}: {run.stderr}"
        count("requests", 9)
        count("forks")
        count("answers compared", 9 if seed % 3 else 6)
        faults = json.loads(run.stdout.splitlines()[-1])
        count("wrong answers", len(faults["parent"] + faults["child"]))
        assert faults == {"parent": [], "child": []}, f"seed {seed}"
