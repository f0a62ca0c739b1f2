import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.valuation.improvement import MIN_EXAMPLES, paired_bound


def compared(seeds, examples, *, wins=0, losses=0):
    """Correctness with this many differing examples, the same in every seed."""
    baseline = np.ones((seeds, examples), dtype=bool)
    candidate = baseline.copy()
    baseline[:, :wins] = False
    candidate[:, wins : wins + losses] = False
    return baseline, candidate


def draw(generator, *, seeds, examples, differing, seed_spread, effect=0.0):
    """Correctness whose true improvement over new seeds and new examples is `effect`."""
    rate = differing / examples
    shift = effect + generator.normal(0, seed_spread, (seeds, 1))
    chance = generator.random((seeds, examples))
    better = np.clip(rate / 2 + shift / 2, 0, 1)
    worse = np.clip(rate / 2 - shift / 2, 0, 1)
    candidate = chance >= worse
    baseline = (chance < worse) | (chance >= worse + better)
    return baseline, candidate


def error_rate(trials, *, effect=0.0, replicates=500, **world):
    generator = np.random.default_rng(5)
    bounds = (
        paired_bound(*draw(generator, effect=effect, **world), replicates=replicates, seed=trial)
        for trial in range(trials)
    )
    return sum(bound.lower > effect for bound in bounds) / trials


WORLDS = {
    "one pair of weights, few differences": (1, 6, 0.0),
    "one pair of weights, many differences": (1, 40, 0.0),
    "three seeds alike": (3, 20, 0.0),
    "three seeds that differ": (3, 30, 0.03),
    "three seeds that differ much": (3, 30, 0.06),
    "five seeds that differ": (5, 30, 0.04),
}


@pytest.mark.parametrize("world", WORLDS)
def test_without_improvement_the_bound_is_above_zero_in_a_tenth_of_cases_at_most(world):
    seeds, differing, spread = WORLDS[world]
    rate = error_rate(800, seeds=seeds, examples=360, differing=differing, seed_spread=spread)
    # 10 % and three standard errors of 800 trials.
    assert rate <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 800)


def test_a_true_improvement_lies_above_the_bound_as_often_as_promised():
    rate = error_rate(800, seeds=3, examples=360, differing=40, seed_spread=0.015, effect=0.03)
    assert rate <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 800)


def test_a_clear_improvement_is_mostly_seen():
    generator = np.random.default_rng(1)
    world = {"seeds": 3, "examples": 360, "differing": 30, "seed_spread": 0.005, "effect": 0.04}
    bounds = [paired_bound(*draw(generator, **world), replicates=500) for _ in range(100)]
    assert np.mean([bound.lower > 0 for bound in bounds]) > 0.9


def test_one_pair_of_weights_is_an_ordinary_bootstrap_over_examples():
    generator = np.random.default_rng(0)
    baseline, candidate = generator.random((2, 200)) < [[0.8], [0.9]]
    bound = paired_bound(baseline, candidate, replicates=20_000)
    differences = candidate.astype(int) - baseline
    rows = generator.integers(0, 200, (20_000, 200))
    expected = np.quantile(differences[rows].mean(axis=1), 0.1)
    assert bound.mean == differences.mean()
    assert bound.lower == pytest.approx(expected, abs=0.006)
    assert bound.error == pytest.approx(differences.std() / np.sqrt(200), rel=0.01)
    assert (bound.seeds, bound.examples) == (1, 200)


def test_the_pigeonhole_resamples_seeds_and_examples_independently():
    """With two seeds, one all better and one all alike, half of the time one is drawn twice."""
    baseline = np.zeros((2, 100), dtype=bool)
    candidate = np.array([[True] * 100, [False] * 100])
    bound = paired_bound(baseline, candidate)
    assert bound.mean == 0.5
    assert bound.lower < 0


def test_the_same_input_gives_the_same_bound_and_nothing_else_does():
    sides = draw(np.random.default_rng(3), seeds=3, examples=100, differing=20, seed_spread=0.02)
    assert paired_bound(*sides) == paired_bound(*sides)
    assert paired_bound(*sides, confidence=0.99).lower < paired_bound(*sides).lower
    assert paired_bound(*sides, confidence=0.5).lower <= paired_bound(*sides).mean


def test_two_lucky_examples_are_no_improvement():
    assert paired_bound(*compared(1, 360, wins=2)).lower == 0
    assert paired_bound(*compared(1, 360, wins=12)).lower > 0


def test_equal_models_are_worth_nothing():
    bound = paired_bound(*compared(3, 100))
    assert (bound.mean, bound.lower, bound.value_nano) == (0, 0, 0)


def test_a_worse_candidate_has_a_negative_value():
    bound = paired_bound(*compared(3, 100, losses=100))
    assert bound.lower == -1
    assert bound.value_nano == -(10**9)


def test_the_value_is_rounded_down_to_an_integer():
    bound = paired_bound(*compared(1, 90, wins=30))
    assert isinstance(bound.value_nano, int)
    assert 0 <= bound.lower * 10**9 - bound.value_nano < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(MIN_EXAMPLES, 80), st.integers(0, 2**32))
def test_the_order_of_the_examples_does_not_matter(seeds, examples, number):
    generator = np.random.default_rng(number)
    baseline, candidate = generator.random((2, seeds, examples)) < 0.8
    bound = paired_bound(baseline, candidate, replicates=200)
    assert -1 <= bound.lower <= bound.mean
    rows = generator.permutation(examples)
    shuffled = paired_bound(baseline[:, rows], candidate[:, rows], replicates=200)
    assert shuffled.lower == pytest.approx(bound.lower)
    assert shuffled.error == pytest.approx(bound.error)


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (np.ones((3, 40)), np.ones((3, 40), int)),
        (np.ones((3, 40)), np.full((3, 40), 1.01)),
        (np.ones((3, 40)), np.full((3, 40), np.nan)),
        (np.ones((3, 40), int), np.ones((2, 40), int)),
        (np.ones((3, 40), int), 2 * np.ones((3, 40), int)),
        (np.ones((3, 29), int), np.ones((3, 29), int)),
        (np.ones((0, 40), int), np.ones((0, 40), int)),
        (np.ones((1, 3, 40), int), np.ones((1, 3, 40), int)),
        (np.array(["a"] * 40), np.array(["a"] * 40)),
    ],
)
def test_what_cannot_be_compared_is_refused(baseline, candidate):
    with pytest.raises(InvalidInputError):
        paired_bound(baseline, candidate)


@pytest.mark.parametrize("options", [{"confidence": 1}, {"confidence": 0.4}, {"replicates": 10}])
def test_a_bound_that_promises_too_much_or_too_little_is_refused(options):
    with pytest.raises(InvalidInputError):
        paired_bound(*compared(1, 40), **options)


# -- scores ------------------------------------------------------------------------------------


def test_scores_of_zero_and_one_are_bounded_like_right_and_wrong_answers():
    baseline, candidate = draw(
        np.random.default_rng(3), seeds=3, examples=100, differing=20, seed_spread=0.02
    )
    answers = paired_bound(baseline, candidate)
    scores = paired_bound(baseline.astype(float), candidate.astype(float))
    assert scores.mean == answers.mean
    assert scores.lower == pytest.approx(answers.lower, abs=1e-6)
    assert scores.error == pytest.approx(answers.error)


def test_the_bound_of_answers_is_the_one_that_receipts_of_before_hold():
    """A receipt is recomputed to the last bit, years later."""
    sides = np.random.default_rng(7).random((2, 3, 200)) < [[[0.7]], [[0.78]]]
    bound = paired_bound(*sides)
    assert (bound.mean, bound.lower, bound.error) == (
        0.08833333333333333,
        0.04,
        0.032707696517822134,
    )


def test_the_best_and_the_worst_lie_two_apart():
    worst, best = -np.ones((2, 40)), np.ones((2, 40))
    assert paired_bound(worst, best).lower == 2
    assert paired_bound(best, worst).lower == -2


def clipped_r2(generator, *, seeds, examples, tails, spread):
    """Scores of two equally good models, whose errors have heavy tails and vary with the seed."""
    common = generator.standard_t(tails, examples)

    def side():
        error = common + generator.normal(0, 0.3, (seeds, examples))
        return np.clip(1 - (error + generator.normal(0, spread, (seeds, 1))) ** 2 / 2, -1, 1)

    return side(), side()


@pytest.mark.parametrize(
    ("seeds", "examples", "tails", "spread"),
    [(1, 100, 1.5, 0.0), (3, 60, 2, 0.1), (5, 200, 3, 0.3)],
)
def test_scores_without_improvement_are_above_zero_in_a_tenth_of_cases_at_most(
    seeds, examples, tails, spread
):
    generator = np.random.default_rng(2)
    world = {"seeds": seeds, "examples": examples, "tails": tails, "spread": spread}
    trials = 400
    found = [
        paired_bound(*clipped_r2(generator, **world), replicates=300, seed=trial).lower > 0
        for trial in range(trials)
    ]
    assert np.mean(found) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / trials)


def test_many_scores_are_drawn_in_pieces_with_the_same_result(monkeypatch):
    from neuronexus_kernel.valuation import improvement

    sides = np.random.default_rng(0).random((2, 2, 50))
    whole = paired_bound(*sides, replicates=200)
    monkeypatch.setattr(improvement, "_DRAWS_AT_ONCE", 700)
    assert paired_bound(*sides, replicates=200) == whole
