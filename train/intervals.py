"""95% intervals of a share and of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054


def wilson(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of `successes` out of `n` > 0: inside [0, 1] and honest near both ends.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a share")
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends one bound is exact, where floating point leaves a rest of 1e-17.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == n else min(1.0, middle + half)


def clustered_wilson(counts: Sequence[tuple[int, int]], z: float = Z_95) -> tuple[float, float]:
    """The interval of a share that is pooled over clusters, each (successes, of how many), such as the facts of a note.

    What stands in one note is alike, so that n facts tell less than n notes: Wilson's interval with the n that simple
    random sampling would have needed for the variance between the clusters, at most all, and one a cluster where no
    variance is seen. Source: Korn and Graubard, Survey Methodology 24 (1998), 193-201.

    Raises:
        ValueError: there is nothing to count, or more successes than there can be.
    """
    seen = [(hits, n) for hits, n in counts if n]
    hits, total = sum(hit for hit, _ in seen), sum(n for _, n in seen)
    if not total > 0 or not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is not a share")
    share, clusters = hits / total, len(seen)
    spread = math.fsum((hit - share * n) ** 2 for hit, n in seen)
    if clusters == 1 or hits in (0, total):
        effective = float(clusters)
    elif spread == 0:
        effective = float(total)
    else:
        variance = clusters / (clusters - 1) * spread / total**2
        effective = min(float(total), max(1.0, share * (1 - share) / variance))
    return wilson(share * effective, effective, z)


def mean_interval(values: Sequence[float], z: float = Z_95) -> tuple[float, float, float]:
    """The mean of at least one value and its normal interval (value, low, high); a single value has no spread."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, mean, mean
    half = z * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, mean - half, mean + half
