"""How much longer a step takes that reads several tokens per row, and how many of them pay."""

from collections import abc

_FREE_TOKENS = {"cpu": 10}  # of all rows: computing so many takes as long as the rest of a step, before it is measured
_DEFAULT_FREE_TOKENS = 64  # other devices compute faster, compared with the time that reading the weights takes
_MIN_GAIN = 1.05  # a wider step must promise more, since the estimates are rough
_NEWEST = 0.2  # the weight of the newest measurement
_FORGOTTEN = 0.01  # the share of what was measured that a plain step forgets, so that a wrong measurement does not stay
# Limits of a measured time against the assumed one: the first step of a shape takes longer, as do interrupted ones.
_MIN_FACTOR, _MAX_FACTOR = 0.25, 3.0


class StepCosts:
    """Estimates how long steps take, compared with plain ones of the same rows, and corrects itself by measured times.

    A step takes a fixed time, above all to read the weights, and a time per token and row. Rows with shorter drafts are
    padded to the same width, so they take as long.

    Args:
        device_type: The type of the device, such as "cpu".
    """

    def __init__(self, device_type: str) -> None:
        self._fixed = _FREE_TOKENS.get(device_type, _DEFAULT_FREE_TOKENS)
        self._num_plain_rows, self._plain_s = 0, 0.0  # rows of the latest plain steps, and their time
        self._factors: dict[tuple[int, int], float] = {}  # by group of rows and of widths: measured against assumed

    def ratio(self, num_rows: int, width: int) -> float:
        """Return how many times as long as a plain step one takes that reads `width` tokens per row."""
        rows, widths = num_rows.bit_length(), (width - 1).bit_length()
        measured = (self._factors[rows, each] for each in range(widths, 0, -1) if (rows, each) in self._factors)
        return max(1.0, self._assumed(num_rows, width) * next(measured, 1.0))

    def observe(self, num_rows: int, width: int, seconds: float) -> None:
        """Take the time of a step: of its forward, and of drawing one token per request."""
        if width == 1:
            self._observe_plain(num_rows, seconds)
        elif num_rows == self._num_plain_rows:
            key = num_rows.bit_length(), (width - 1).bit_length()
            factor = min(max(_MIN_FACTOR, seconds / self._plain_s / self._assumed(num_rows, width)), _MAX_FACTOR)
            before = self._factors.get(key, 1.0)
            self._factors[key] = before + _NEWEST * (factor - before)

    def _observe_plain(self, num_rows: int, seconds: float) -> None:
        is_same = num_rows == self._num_plain_rows
        self._plain_s += (_NEWEST if is_same else 1.0) * (seconds - self._plain_s)
        self._num_plain_rows = num_rows
        for key, factor in self._factors.items():
            self._factors[key] = factor + _FORGOTTEN * (1.0 - factor)

    def _assumed(self, num_rows: int, width: int) -> float:
        return (self._fixed + num_rows * width) / (self._fixed + num_rows)


def choose_num_drafted(chances: abc.Sequence[abc.Sequence[float]], ratio: abc.Callable[[int], float]) -> int:
    """Return how many drafted tokens to verify in the next step, so that the expected tokens per time are most.

    Args:
        chances: For each request, the probabilities that its first 1, 2, ... drafted tokens are all drawn.
        ratio: How many times as long as a plain step one takes that reads so many tokens per row.

    Returns:
        The number of drafted tokens per request, 0 if drafts do not pay.
    """
    expected = float(len(chances))  # tokens drawn in a step; without drafts, one per request
    best, best_rate = 0, _MIN_GAIN * expected
    for number in range(1, max(map(len, chances), default=0) + 1):
        expected += sum(each[number - 1] for each in chances if len(each) >= number)
        rate = expected / ratio(1 + number)
        if rate > best_rate:
            best, best_rate = number, rate
    return best
