"""How much better the candidate is than the baseline, and how sure that is.

Both are scored on the same held-out examples and trained from the same seeds, so only paired
differences count: with right and wrong answers +1 where the candidate alone is right, -1 where
the baseline alone is; with scores from -1 to 1 anything from -2 to 2.  They
vary with the seed and with the example, two crossed factors, and the improvement claimed is that
over new seeds and new examples.  Two lower bounds are taken and the lower one counts:

1. the percentile of the pigeonhole bootstrap (A. B. Owen, "The pigeonhole bootstrap", Annals of
   Applied Statistics 1(2), 2007), which resamples seeds and examples independently.  It needs no
   normal distribution, which a handful of differing examples does not have; but with S seeds it
   shrinks their variance by (S - 1) / S and knows nothing of S being three;
2. Student's t over the sum of the variance of the seed means over S and of the example means
   over n, each with its n - 1, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2,
   1946).  It is right about few seeds, but not about few differing examples.

Each alone exceeds its error rate where the other does not: with three seeds that truly differ
the first errs in up to 16 % of cases, with two differing examples the second in 11 %.  The lower
of both stayed at or under 10 % in all simulations; without seed effects it errs in 3 to 4 % only
and so pays late rather than wrongly.  With one pair of weights no seeds vary, and the claim is
about those weights.  Neither bound supposes that a difference is -1, 0 or 1, only that it is
bounded, as all scores are, so that no single example decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

METHOD = "pigeonhole-bootstrap-and-student-t"
MIN_EXAMPLES = 30
"""Fewer held-out examples than this bound nothing."""

CONFIDENCE = 0.9
REPLICATES = 2000

SCORE_UNIT = 1_000_000
"""Scores count in whole millionths, so that sums are exact and alike on every machine."""

_DRAWS_AT_ONCE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bound:
    """A measured improvement.

    Attributes
    ----------
    mean
        Mean paired difference: from -1 to 1 for right and wrong answers, from -2 to 2 for scores.
    lower
        One-sided lower bound of it, at least the least possible and at most `mean`.
    error
        Standard error of the mean.
    confidence
        How often such a bound lies below the truth, at least.
    seeds, examples
        Numbers of both that were compared.
    """

    mean: float
    lower: float
    error: float
    confidence: float
    seeds: int
    examples: int

    @property
    def value_nano(self) -> int:
        """The lower bound as an integer of 10^-9, rounded down."""
        return math.floor(self.lower * 10**9)


def paired_bound(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Bound:
    """Bound the improvement of `candidate` over `baseline` from below.

    Parameters
    ----------
    baseline, candidate
        Which held-out examples each predicted rightly: bool or 0/1; or how well: float scores
        from -1 to 1.  Of equal shape (seeds, examples), or (examples,) for one pair of weights.
    confidence
        One-sided confidence of the bound, at least 0.5 and below 1.
    replicates
        Bootstrap replicates, at least 100.
    seed
        Seed of the bootstrap; the same input and seed give the same bound.

    Raises
    ------
    InvalidInputError
        If shapes differ, integers are not 0 or 1, scores are not from -1 to 1, or there are
        fewer than `MIN_EXAMPLES`.
    """
    differences, unit = _differences(baseline, candidate)
    if not 0.5 <= confidence < 1 or replicates < 100:
        raise InvalidInputError("confidence is from 0.5 to below 1, replicates at least 100.")
    seeds, examples = differences.shape
    mean = int(differences.sum()) / (differences.size * unit)
    error, freedom = _standard_error(differences / unit)
    by_bootstrap = _pigeonhole(differences, confidence, replicates, seed) / unit
    by_student = mean - _student_quantile(freedom, confidence) * error if error else mean
    return Bound(
        mean=mean,
        lower=max(min(mean, by_bootstrap, by_student), -1.0 if unit == 1 else -2.0),
        error=error,
        confidence=confidence,
        seeds=seeds,
        examples=examples,
    )


def whole_scores(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return scores from -1 to 1 as whole parts of `SCORE_UNIT`, rounded to the nearest.

    Raises
    ------
    InvalidInputError
        If a score is NaN or outside of -1 to 1.
    """
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    if not (np.abs(values) <= 1).all():
        raise InvalidInputError("Scores are from -1 to 1.")
    whole: npt.NDArray[np.int64] = np.rint(values * SCORE_UNIT).astype(np.int64)
    return whole


def _differences(
    baseline: npt.ArrayLike, candidate: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the paired differences as integers (seeds, examples), and how many make up 1."""
    import numpy as np

    sides = [np.atleast_2d(np.asarray(side)) for side in (baseline, candidate)]
    if sides[0].shape != sides[1].shape or sides[0].ndim != 2:
        raise InvalidInputError(
            "Baseline and candidate need one shape (seeds, examples), "
            f"not {sides[0].shape} and {sides[1].shape}."
        )
    if sides[0].shape[0] < 1 or sides[0].shape[1] < MIN_EXAMPLES:
        raise InvalidInputError(
            f"An improvement is measured on at least {MIN_EXAMPLES} held-out examples; "
            f"there are {sides[0].shape[1]}."
        )
    if all(side.dtype.kind == "f" for side in sides):
        return whole_scores(sides[1]) - whole_scores(sides[0]), SCORE_UNIT
    if any(side.dtype.kind not in "biu" or not np.isin(side, (0, 1)).all() for side in sides):
        raise InvalidInputError(
            "Correctness is bool, or integers 0 and 1; scores are floats on both sides."
        )
    return sides[1].astype(np.int64) - sides[0].astype(np.int64), 1


def _standard_error(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard error of the mean and its degrees of freedom.

    The noise of a single (seed, example) pair is in both terms: slightly too much, never too
    little.
    """
    seeds, examples = differences.shape
    of_examples = float(differences.mean(axis=0).var(ddof=1)) / examples
    of_seeds = float(differences.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    total = of_examples + of_seeds
    if total == 0:
        return 0.0, math.inf
    spread = of_examples**2 / (examples - 1) + of_seeds**2 / max(seeds - 1, 1)
    return math.sqrt(total), total**2 / spread


def _student_quantile(freedom: float, confidence: float) -> float:
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(freedom, confidence))


def _pigeonhole(
    differences: npt.NDArray[np.int64], confidence: float, replicates: int, seed: int
) -> float:
    """Return the lower percentile of the mean over resampled seeds and resampled examples.

    Examples with the same differences over all seeds are interchangeable, so how often each
    such pattern is drawn is one multinomial: exact, and independent of the number of examples.
    """
    import numpy as np

    seeds, examples = differences.shape
    patterns, counts = np.unique(differences, axis=1, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, _DRAWS_AT_ONCE // len(counts))  # of scores, hardly two patterns are alike
    sums = [
        generator.multinomial(examples, counts / examples, size=min(chunk, replicates - start))
        @ patterns.T
        for start in range(0, replicates, chunk)
    ]
    drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates)
    totals = (np.concatenate(sums) * drawn_seeds).sum(axis=1)
    rank = max(int(round((1 - confidence) * replicates, 6)), 1) - 1
    return int(np.partition(totals, rank)[rank]) / differences.size
