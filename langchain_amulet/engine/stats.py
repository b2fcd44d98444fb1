"""The state of an engine, and its counts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The state of an engine, and its counts since it was created."""

    num_running: int
    """Requests that hold rows."""
    num_waiting: int
    """Requests that wait for rows, including those whose callers wait for a place in the queue."""
    num_rows: int
    """Rows in use."""
    num_kept_tokens: int
    """Tokens in saved rows of earlier requests."""
    num_reused_tokens: int
    """Tokens that were not prefilled, since their keys and values were copied from other requests."""
    num_preemptions: int
    """How often a request lost its rows, to be prefilled again later."""
    num_drafted_tokens: int
    """Tokens that were guessed ahead and verified."""
    num_accepted_tokens: int
    """Those of them that were drawn, each without a step of its own."""
    num_graphs: int
    """Graphs that the decode step was compiled to."""
