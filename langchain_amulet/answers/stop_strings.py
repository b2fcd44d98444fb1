"""Finds stop strings in a text that arrives in pieces."""

from collections import deque
from collections.abc import Iterable


class StopStrings:
    """An automaton that finds any of several strings, reading each character of the text once.

    A state stands for the longest end of the text so far that begins a stop string; state 0 for the empty one. The
    automaton does not change, so answers may share it.

    Args:
        strings: The stop strings, none of them empty.

    References:
        Aho and Corasick, Efficient string matching, 1975: https://doi.org/10.1145/360825.360855
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._next: list[dict[str, int]] = [{}]
        self.depth = [0]
        """By state, the number of characters at the end of the text that begin a stop string."""
        self.matched = [0]
        """By state, the length of the longest stop string that ends here; 0 if none does."""
        for string in strings:
            self._insert(string)
        self._fallback = [0] * len(self._next)
        self._link()

    def step(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)

    def _insert(self, string: str) -> None:
        state = 0
        for character in string:
            following = self._next[state].setdefault(character, len(self._next))
            if following == len(self._next):
                self._next.append({})
                self.depth.append(self.depth[state] + 1)
                self.matched.append(0)
            state = following
        self.matched[state] = len(string)

    def _link(self) -> None:
        """Compute for each state the one of the next shorter end that begins a stop string, to fall back to."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self._next[state].items():
                self._fallback[following] = self.step(self._fallback[state], character)
                self.matched[following] = self.matched[following] or self.matched[self._fallback[following]]
                queue.append(following)


NO_STOP = StopStrings()


class StopScanner:
    """Ends a text before the stop string that is complete first, and holds back text that may begin a stop string.

    Of stop strings that are complete at the same character, the longest ends the text. The result does not depend on
    the pieces of the text.
    """

    def __init__(self, stop: StopStrings) -> None:
        self._stop = stop
        self._state = 0
        self._held = ""
        self.is_stopped = False
        """Whether a stop string is complete."""

    def push(self, text: str) -> str:
        """Add text; return what is certain not to begin a stop string."""
        if self.is_stopped:
            return ""
        start = len(self._held)
        self._held += text
        for end, character in enumerate(text, start + 1):
            self._state = self._stop.step(self._state, character)
            if matched := self._stop.matched[self._state]:
                self.is_stopped = True
                return self._held[: end - matched]
        return self._take(len(self._held) - self._stop.depth[self._state])

    def finish(self, text: str = "") -> str:
        """Add the last text; return all that was held back."""
        if self.is_stopped:
            return ""
        rest = self.push(text)
        return rest if self.is_stopped else rest + self._take(len(self._held))

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken
