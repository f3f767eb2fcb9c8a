"""Compact storage of many requests' times: histograms with log-spaced buckets, which can be added up.

Every bucket is `GAMMA` times as wide as the one before, so a percentile read from them is at most `RELATIVE_ERROR`
off (the idea of DDSketch, Masson et al., VLDB 2019, without its collapsing: a range of 0.1 ms to a day has 2068
buckets at most). Count, sum, least and largest value and the number over a limit are exact.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GAMMA = 1.01
RELATIVE_ERROR = (GAMMA - 1) / (GAMMA + 1)
SMALLEST, LARGEST = 1e-4, 86_400.0
"""Seconds. One bucket holds everything below the first, read as 0; one everything above: no request lasts a day."""
_LOG_GAMMA = math.log(GAMMA)
_LAST = math.ceil(math.log(LARGEST / SMALLEST) / _LOG_GAMMA)


class Sketch:
    """Seconds, counted. `over` counts the values beyond the limit, as `add` was given it."""

    __slots__ = ("buckets", "count", "largest", "least", "over", "sum")

    def __init__(self) -> None:
        self.count = self.over = 0
        self.sum = self.largest = 0.0
        self.least = math.inf
        self.buckets: dict[int, int] = {}

    def add(self, values: Sequence[float], over: int = 0) -> None:
        """Counts values of 0 or more, of which `over` are over a limit."""
        if not values:
            return
        self.count += len(values)
        self.over += over
        self.sum += sum(values)
        self.largest = max(self.largest, *values)
        self.least = min(self.least, *values)
        mine = self.buckets
        for index, count in Counter(map(bucket_of, values)).items():
            mine[index] = mine.get(index, 0) + count

    def merge(self, other: Sketch) -> None:
        """Adds what `other` counted."""
        self.count += other.count
        self.over += other.over
        self.sum += other.sum
        self.largest = max(self.largest, other.largest)
        self.least = min(self.least, other.least)
        mine = self.buckets
        for index, count in other.buckets.items():
            mine[index] = mine.get(index, 0) + count

    def quantiles(self, *shares: float) -> list[float]:
        """For each share, which must rise: the least value that this share of the values does not exceed.

        At most `RELATIVE_ERROR` off (0.1 ms for values below 0.1 ms), between the least and the largest value. Raises
        ValueError without values.
        """
        if not self.count:
            raise ValueError("no values")
        found: list[float] = []
        seen, buckets = 0, iter(sorted(self.buckets.items()))
        index = 0
        for share in shares:
            rank = max(1, math.ceil(share * self.count - 1e-9))
            while seen < rank:
                index, count = next(buckets)
                seen += count
            found.append(min(self.largest, max(self.least, middle(index))))
        return found

    def may_exceed(self, share: float) -> int:
        """How many values may be over a limit while the quantile of `share` still meets it."""
        return self.count - max(1, math.ceil(share * self.count - 1e-9))

    def count_over(self, limit: float) -> int:
        """How many values are over `limit`, to the bucket: for a limit that was not known when they were counted."""
        if self.largest <= limit:
            return 0
        return sum(count for index, count in self.buckets.items() if middle(index) > limit)

    def values(self) -> Iterator[tuple[float, int]]:
        """Every bucket's middle and its count."""
        for index, count in self.buckets.items():
            yield middle(index), count

    def dump(self) -> list[Any]:
        """As plain data; empty without values."""
        if not self.count:
            return []
        flat = [number for pair in sorted(self.buckets.items()) for number in pair]
        return [self.count, self.over, round(self.sum, 6), self.least, self.largest, flat]

    @staticmethod
    def load(data: list[Any]) -> Sketch:
        """The sketch that `dump` converted to `data`."""
        sketch = Sketch()
        if data:
            sketch.count, sketch.over, sketch.sum, sketch.least, sketch.largest, flat = data
            sketch.buckets = dict(zip(flat[::2], flat[1::2], strict=True))
        return sketch


def bucket_of(seconds: float) -> int:
    """Bucket 0 ends at SMALLEST, bucket i at SMALLEST * GAMMA**i."""
    return 0 if seconds <= SMALLEST else min(_LAST, math.ceil(math.log(seconds / SMALLEST) / _LOG_GAMMA))


def middle(index: int) -> float:
    """The value that represents a bucket: within `RELATIVE_ERROR` of everything in it."""
    return 0.0 if index == 0 else SMALLEST * 2.0 * GAMMA**index / (GAMMA + 1)
