"""How soon weights are learned from comparisons, and whether answers get better by it."""

import argparse
import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from langchain_amulet import ChatAmulet, Preference
from langchain_amulet.fitting import LearningConfig, Observation, fit
from tests import simulated_users as users
from tests.simulated_users import EVIDENCE_FILE, NUM_KNOWN, PREFERENCES, Array, Evidence

QUESTIONS = (
    "How can I sleep better at night?",
    "What is a good way to learn the guitar?",
    "How do I start running?",
    "Why is the sky blue?",
    "How do I cook rice?",
    "What should I see in Rome?",
    "How do vaccines work?",
    "How can I save money?",
    "What makes a good friend?",
    "How do I write a letter of thanks?",
    "Why do cats purr?",
    "How does a bicycle stay upright?",
    "How do I plant tomatoes?",
    "What is inflation?",
    "How can I remember names?",
    "Why do leaves fall in autumn?",
    "How do I prepare for a job interview?",
    "What is a black hole?",
    "How do I calm a crying baby?",
    "What is the best way to learn French?",
    "Why is exercise good for the heart?",
    "How do I clean a wooden table?",
    "How do airplanes fly?",
    "What can I do on a rainy day?",
    "How do I make new friends in a new city?",
    "What is photosynthesis?",
    "How do I choose a laptop?",
    "Why do we dream?",
    "How do I bake bread?",
    "What is democracy?",
    "How can I stop biting my nails?",
    "How do bees make honey?",
    "What should I pack for a hike?",
    "How do I speak in front of many people?",
    "Why does ice float?",
    "How do I train a puppy?",
)
_NUM_ANSWERS = 4  # per question: two plain ones, two that follow a preference
_TOKENS = 40
_CHECKPOINTS = (0, 5, 10, 15, 20, 30, 40, 50, 60)
_NUM_USERS = 100
_NUM_GENERATED_FOR = 8
_SEED = 0


def run(llm: ChatAmulet, arguments: argparse.Namespace) -> None:
    """Sample answers, read what they tell, simulate users, and answer held-out questions as learned."""
    if arguments.resample:
        values = np.round(sample_evidence(llm, QUESTIONS), 4).tolist()
        EVIDENCE_FILE.write_text(json.dumps({"preferences": PREFERENCES, "evidence": values}) + "\n")
    evidence = Evidence.load()
    print_courses(evidence)
    print_gains(llm, QUESTIONS, evidence)


def sample_evidence(llm: ChatAmulet, questions: tuple[str, ...]) -> Array:
    """Per question and answer, the evidence of each preference: `(Q, A, K)`."""
    rng = random.Random(_SEED)
    jobs = [
        (question, rng.choice(PREFERENCES) if i % 2 else None) for question in questions for i in range(_NUM_ANSWERS)
    ]
    answers = answer_all(llm, [(question, [] if text is None else [Preference(text)]) for question, text in jobs])
    rows = [
        llm.evidence(question, answer, PREFERENCES)
        for (question, _), answer in tqdm(zip(jobs, answers, strict=True), "evidence", total=len(jobs))
    ]
    return np.array(rows).reshape(len(questions), _NUM_ANSWERS, len(PREFERENCES))


def answer_all(llm: ChatAmulet, jobs: list[tuple[str, list[Preference]]]) -> list[str]:
    """Sampled at temperature 1, all in one batch of the engine."""

    def answer(numbered: tuple[int, tuple[str, list[Preference]]]) -> str:
        seed, (question, preferences) = numbered
        message = llm.invoke(question, preference=preferences, temperature=1.0, max_tokens=_TOKENS, seed=_SEED + seed)
        return message.text or "."

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [*tqdm(threads.map(answer, enumerate(jobs)), "answers", total=len(jobs))]


def print_courses(evidence: Evidence) -> None:
    """Accuracy on held-out choices, of the learner and of the true weights."""
    kinds: dict[str, dict[str, object]] = {
        "six hidden weights": {},
        "the same, flipped after 20": {"flips_at": 20},
        "a seventh that is not known, 10 % random choices": {"num_weights": NUM_KNOWN + 1, "noise": 0.1},
    }
    print(
        f"\nHeld-out choices foretold after so many comparisons: accuracy, and its share of the true weights' ({_NUM_USERS} users)"
    )
    print("\n| users |", " | ".join(map(str, _CHECKPOINTS)), "|\n|---|" + "---|" * len(_CHECKPOINTS))
    for name, settings in kinds.items():
        course = users.mean_course(evidence, _CHECKPOINTS, _NUM_USERS, **settings)
        cells = [f"{a:.3f} ({a / c:.0%})" for a, c in zip(course.learned, course.ceiling, strict=True)]
        print(f"| {name} |", " | ".join(cells), "|")


def print_gains(llm: ChatAmulet, questions: tuple[str, ...], evidence: Evidence) -> None:
    """Hidden utility of answers to held-out questions, with weights learned of 20 comparisons and with none."""
    held_out = questions[2::3]
    scale = evidence.train.std(axis=(0, 1))
    train = evidence.train / scale
    centre = train.mean(axis=(0, 1))
    gains = []
    for seed in range(_NUM_GENERATED_FOR):
        rng = np.random.default_rng(1000 + seed)
        user = users.random_user(train - centre, rng)
        keys = [str(k) for k in range(NUM_KNOWN)]
        pairs = users.random_pairs(train, 20, rng)
        chosen = [pair if user.choose(pair, rng) else -pair for pair in pairs]
        observations = [Observation(dict(zip(keys, pair * scale, strict=False)), is_comparison=True) for pair in chosen]
        weights = fit(keys, observations, [0.0] * NUM_KNOWN, LearningConfig()).weights
        profile = [Preference(text, float(w), "learned") for text, w in zip(PREFERENCES, weights, strict=False)]
        jobs = [(question, chosen_profile) for chosen_profile in ([], profile) for question in held_out]
        answers = answer_all(llm, jobs)
        rows = [
            llm.evidence(question, answer, PREFERENCES) for (question, _), answer in zip(jobs, answers, strict=True)
        ]
        utilities = (np.array(rows) / scale - centre) @ user.weights
        gains.append(float((utilities[len(held_out) :] - utilities[: len(held_out)]).mean()))
        print(f"user {seed}: {gains[-1]:+.2f}", flush=True)
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    print(
        f"\nAnswers with learned weights, less plain ones: {np.mean(gains):+.2f} standard deviations of the hidden utility, "
        f"95 % interval {np.mean(gains) - 2.36 * error:+.2f} to {np.mean(gains) + 2.36 * error:+.2f} "
        f"({len(gains)} users, {len(held_out)} held-out questions each)"
    )
