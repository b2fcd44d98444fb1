"""How many comparisons the learner needs to find the weights, and whether the answers improve."""

import argparse
import json
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from langchain_amulet import ChatAmulet, Preference
from langchain_amulet.feedback.bradley_terry import LearningConfig, Observation, fit_weights
from tests.benchmarks.models import chat_model
from tests.benchmarks.report import Report
from tests.fakes import simulated_users as users
from tests.fakes.simulated_users import EVIDENCE_FILE, NUM_KNOWN, PREFERENCES, Array, Course, Evidence

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
_NUM_ANSWERS = 4  # per question: two without a preference, two with one
_TOKENS = 40
_CHECKPOINTS = (0, 5, 10, 15, 20, 30, 40, 50, 60)
_NUM_USERS = 100
_NUM_GENERATED_FOR = 12
_SEED = 0


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Sample answers, compute their evidence, simulate users, and answer held-out questions with the learned weights."""
    llm = chat_model(arguments)
    if arguments.resample:
        values = np.round(sample_evidence(llm, QUESTIONS), 4).tolist()
        EVIDENCE_FILE.write_text(json.dumps({"preferences": PREFERENCES, "evidence": values}) + "\n")
    evidence = Evidence.load()
    courses = report_courses(evidence, report)
    if arguments.picture:
        draw_courses(courses, arguments.picture)
    # Six learned weights all differ. Streams with similar weights share a prompt; that is measured here.
    warnings.filterwarnings("ignore", message="These preferences take")
    report_gains(llm, QUESTIONS, evidence, report)


def sample_evidence(llm: ChatAmulet, questions: tuple[str, ...]) -> Array:
    """Return the evidence of each preference per question and answer, `(Q, A, K)`."""
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
    """Sample answers at temperature 1, all in one batch of the engine."""

    def answer(numbered: tuple[int, tuple[str, list[Preference]]]) -> str:
        seed, (question, preferences) = numbered
        message = llm.invoke(question, preference=preferences, temperature=1.0, max_tokens=_TOKENS, seed=_SEED + seed)
        return message.text or "."

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [*tqdm(threads.map(answer, enumerate(jobs)), "answers", total=len(jobs))]


def report_courses(evidence: Evidence, report: Report) -> dict[str, Course]:
    """Return the accuracy on held-out choices, of the learner and of the true weights."""
    kinds: dict[str, dict[str, object]] = {
        "six hidden weights": {},
        "the same, flipped after 20": {"flips_at": 20},
        "a seventh unknown, 10 % random choices": {"num_weights": NUM_KNOWN + 1, "noise": 0.1},
    }
    courses = {}
    rows: list[list[object]] = []
    for name, settings in kinds.items():
        courses[name] = course = users.mean_course(evidence, _CHECKPOINTS, _NUM_USERS, **settings)
        cells = [f"{a:.3f} ({a / c:.0%})" for a, c in zip(course.learned, course.ceiling, strict=True)]
        rows.append([name, *cells])
    report.table(
        "Held-out choices foretold after so many comparisons, and as a share of what the true weights foretell "
        f"({_NUM_USERS} users)",
        " | ".join(["users", *map(str, _CHECKPOINTS)]),
        rows,
    )
    return courses


def draw_courses(courses: dict[str, Course], path: Path) -> None:
    """Plot the learner as a solid line, and the true weights as a dashed line in the same colour."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, course in courses.items():
        [line] = axes.plot(_CHECKPOINTS, course.learned, marker="o", markersize=3, label=name)
        axes.plot(_CHECKPOINTS, course.ceiling, linestyle="--", linewidth=1, color=line.get_color())
    axes.set(xlabel="comparisons", ylabel="held-out choices foretold", ylim=(0.45, 0.95))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", title="dashed: with the true weights", frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def report_gains(llm: ChatAmulet, questions: tuple[str, ...], evidence: Evidence, report: Report) -> None:
    """Print the hidden utility of held-out answers, with weights learned from 20 comparisons and without weights."""
    held_out = questions[2::3]
    scale = evidence.train.std(axis=(0, 1))
    train = evidence.train / scale
    centre = train.mean(axis=(0, 1))
    plain = features(llm, held_out, []) / scale
    gains = []
    for seed in range(_NUM_GENERATED_FOR):
        rng = np.random.default_rng(1000 + seed)
        user = users.random_user(train - centre, rng)
        profile = learned_profile(user, train, scale, rng)
        gains.append((features(llm, held_out, profile) / scale - plain) @ user.weights)
        report.say(f"user {seed}: {gains[-1].mean():+.2f}")
    mean, low, high = bootstrapped(np.array(gains))
    report.say(
        f"\nAnswers with learned weights, less plain ones: {mean:+.2f} standard deviations of the hidden utility, 95 % interval "
        f"{low:+.2f} to {high:+.2f} ({len(gains)} users, {len(held_out)} held-out questions, both resampled)"
    )


def learned_profile(user: users.User, train: Array, scale: Array, rng: np.random.Generator) -> list[Preference]:
    """Print the weights that 20 comparisons give to preferences of true weight 0."""
    keys = [str(k) for k in range(NUM_KNOWN)]
    pairs = users.random_pairs(train, 20, rng)
    chosen = [pair if user.choose(pair, rng) else -pair for pair in pairs]
    observations = [Observation(dict(zip(keys, pair * scale, strict=False)), is_comparison=True) for pair in chosen]
    weights = fit_weights(keys, observations, [0.0] * NUM_KNOWN, LearningConfig()).weights
    return [Preference(text, float(w), "learned") for text, w in zip(PREFERENCES, weights, strict=False)]


def features(llm: ChatAmulet, questions: tuple[str, ...], profile: list[Preference]) -> Array:
    """Return the evidence of one answer to each question, `(Q, K)`. The seed depends on the question."""
    answers = answer_all(llm, [(question, profile) for question in questions])
    return np.array([llm.evidence(*pair, PREFERENCES) for pair in zip(questions, answers, strict=True)])


def bootstrapped(gains: Array) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval of `(users, questions)`; both dimensions are resampled."""
    rng = np.random.default_rng(_SEED)
    rows, columns = (rng.integers(size, size=(10_000, size)) for size in gains.shape)
    means = gains[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gains.mean()), float(low), float(high)
