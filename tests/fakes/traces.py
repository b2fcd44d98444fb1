"""Traces of made-up answers."""

from langchain_amulet.trace import Candidate, TokenTrace, Trace


def candidate(token_id: int, text: str, probability: float = 0.5, **others) -> Candidate:
    """Return a candidate with one probability under all policies but those given."""
    values = dict.fromkeys(("realigned", "unguarded", "base", "prompted"), probability)
    return Candidate(token_id, text, **{**values, "contrast": None, **others})


def token(
    text: str, *others: Candidate, kl: float = 0.2, spelled: str | None = None, **choices: Candidate
) -> TokenTrace:
    """Return the trace of a token that every policy would have given, but those given."""
    drawn = candidate(0, text if spelled is None else spelled)
    all_choices = {"base_choice": drawn, "prompted_choice": drawn, "unguarded_choice": drawn, **choices}
    removed = [each for each in others if each.realigned == 0]
    mass = sum(each.unguarded for each in removed)
    return TokenTrace(text, (drawn, *others), kl, 2.0, **all_choices, num_removed=len(removed), removed_mass=mass)


def trace_of(*tokens: TokenTrace) -> Trace:
    """Return a trace of these tokens."""
    return Trace(tokens)
