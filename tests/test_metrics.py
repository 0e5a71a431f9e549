import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cramming import metrics
from cramming.errors import CrammingError
from cramming.results.published import published

NATS = st.floats(0, 30)
SHARES = st.floats(0, 1)


def passages(elements, dtype=np.float64):
    return st.integers(2, 60).flatmap(lambda size: arrays(dtype, size, elements=elements))


def pairs(elements, dtype=np.float64):
    return st.integers(2, 60).flatmap(lambda n: st.tuples(*[arrays(dtype, n, elements=elements)] * 2))


RUNS = st.lists(st.tuples(st.sampled_from([8, 16, 32, 64]), SHARES), min_size=1, max_size=30)


class TestGains:
    @given(passages(NATS))
    def test_no_vector_gains_no_information(self, nats):
        assert metrics.information_gain(nats, nats) == 0

    @given(passages(st.booleans(), bool))
    def test_no_vector_gains_no_token(self, correct):
        assert metrics.token_gain(correct, correct) == 0

    @given(pairs(st.floats(0, 30, width=32), np.float32), st.booleans())
    def test_information_is_summed_in_float64(self, nats, score_first):
        start = 0 if score_first else 1
        exact = math.fsum([*map(float, nats[0][start:]), *(-float(x) for x in nats[1][start:])])
        assert metrics.information_gain(*nats, score_first=score_first) == pytest.approx(exact, rel=1e-12, abs=1e-11)

    @given(pairs(NATS))
    def test_published_gain_is_mean_over_scored_tokens_times_length(self, nats):
        length = len(nats[0])
        gain = metrics.information_gain(*nats, score_first=False)
        assert metrics.published_sum(gain, length) == pytest.approx(gain / (length - 1) * length)

    def test_information_gain_by_hand(self):
        without, with_mem = [5.0, 2.0, 4.0], [1.0, 0.5, 0.5]
        assert metrics.information_gain(without, with_mem) == 9
        assert metrics.information_gain(without, with_mem, score_first=False) == 5
        assert metrics.published_sum(5.0, 3) == 7.5

    def test_token_0_may_be_unknown_only_if_it_is_not_scored(self):
        without, with_mem = [math.nan, 2.0], [0.1, 1.0]
        assert metrics.information_gain(without, with_mem, score_first=False) == 1
        with pytest.raises(CrammingError, match=r"nats_without\[0\] is nan"):
            metrics.information_gain(without, with_mem)

    def test_token_gain_takes_flags_or_counts(self):
        assert metrics.token_gain([True, True, False], [False, True, False]) == 1
        assert metrics.token_gain(30, 12) == 18
        np.testing.assert_array_equal(metrics.token_gain([30, 8], [12, 9]), [18, -1])

    def test_a_bit_is_log_2_nats(self):
        assert metrics.nats_to_bits(math.log(8)) == pytest.approx(3)


class TestCapacity:
    @given(RUNS, SHARES, SHARES, st.booleans())
    def test_never_rises_with_the_threshold(self, runs, a, b, contiguous):
        low, high = (
            metrics.decoding_capacity(*zip(*runs, strict=True), threshold, contiguous=contiguous)
            for threshold in sorted((a, b))
        )
        assert low >= high

    @given(RUNS, SHARES)
    def test_asking_every_shorter_length_never_raises_it(self, runs, threshold):
        lengths, accuracies = zip(*runs, strict=True)
        contiguous = metrics.decoding_capacity(lengths, accuracies, threshold, contiguous=True)
        assert contiguous <= metrics.decoding_capacity(lengths, accuracies, threshold)

    def test_the_mean_decides_and_a_gap_is_skipped(self):
        lengths = [8, 8, 16, 16, 32, 32, 64]
        accuracies = [1, 1, 0.97, 0.99, 0.98, 1, 0.9]  # means 1, 0.98, 0.99, 0.9
        assert metrics.decoding_capacity(lengths, accuracies) == 32
        assert metrics.decoding_capacity(lengths, accuracies, contiguous=True) == 8

    def test_zero_if_no_length_reaches_it(self):
        assert metrics.decoding_capacity([8, 16], [0.98, 0.5]) == 0


class TestBeyondCapacity:
    runs = pd.DataFrame(
        {
            "length": [11, 21, 21],
            "accuracy": [1.0, 0.9, 0.99],
            "correct_with": [10, 18, 20],
            "correct_without": [2, 6, 10],
            "nats_with": [1.0, 8.0, 4.0],
            "nats_without": [40.0, 68.0, 84.0],
        }
    )

    def test_drops_what_is_above_the_threshold_and_scales_by_length(self):
        gains = metrics.published_beyond_capacity(self.runs)
        assert gains["n_runs"] == 2
        assert gains["token_gain_mean"] == pytest.approx(11 * 21 / 20)
        assert gains["token_gain_std"] == pytest.approx(math.sqrt(2) * 21 / 20)
        assert gains["information_gain_nats_mean"] == pytest.approx(70 * 21 / 20)
        assert gains["information_gain_nats_std"] == pytest.approx(math.sqrt(200) * 21 / 20)

    def test_nan_if_every_run_is_within_capacity(self):
        gains = metrics.published_beyond_capacity(self.runs[:1])
        assert gains["n_runs"] == 0
        assert math.isnan(gains["token_gain_mean"])

    def test_agrees_with_the_gain_of_one_passage(self):
        without, with_mem = [9.0, 4.0, 6.0], [9.0, 1.0, 2.0]
        run = self.runs[1:2].assign(length=3, nats_with=sum(with_mem[1:]), nats_without=sum(without[1:]))
        gains = metrics.published_beyond_capacity(run)
        expected = metrics.published_sum(metrics.information_gain(without, with_mem, score_first=False), 3)
        assert gains["information_gain_nats_mean"] == pytest.approx(expected)


class TestIntervals:
    def test_same_seed_same_interval(self):
        values = [20, 31, 25, 40, 28]
        assert metrics.bootstrap_ci(values) == metrics.bootstrap_ci(values)
        assert metrics.bootstrap_ci(values, n_boot=99, seed=1) != metrics.bootstrap_ci(values, n_boot=99)

    @given(passages(st.floats(-100, 100)))
    def test_interval_lies_within_the_values(self, values):
        low, high = metrics.bootstrap_ci(values, np.median, n_boot=50)
        assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9

    def test_interval_of_a_mean_matches_normal_theory(self):
        values = np.random.default_rng(7).normal(50, 10, size=400)
        low, high = metrics.bootstrap_ci(values)
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.05)

    def test_summary_of_horizons(self):
        summary = metrics.horizon_summary([24, 32, 40])
        assert (summary["n"], summary["mean"], summary["sd"]) == (3, 32, 8)
        assert 24 <= summary["low"] <= 32 <= summary["high"] <= 40

    def test_one_passage_has_no_deviation(self):
        assert math.isnan(metrics.horizon_summary([24])["sd"])


class TestTheory:
    @given(st.integers(1, 10_000), st.integers(2, 300_000), st.sampled_from([1, 4, 8, 16, 32]), st.integers(1, 9))
    def test_capacity_is_linear_in_width_and_bits(self, width, vocab_size, bits, factor):
        base = metrics.theoretical_capacity(width, vocab_size, bits)
        assert metrics.theoretical_capacity(factor * width, vocab_size, bits) == pytest.approx(factor * base)
        assert metrics.theoretical_capacity(width, vocab_size, factor * bits) == pytest.approx(factor * base)

    @pytest.mark.parametrize("row", published("models").to_dict("records"), ids=lambda row: row["name"])
    def test_published_bound_of_every_model(self, row):
        assert (
            round(metrics.theoretical_capacity(row["hidden_size"], row["vocab_size"]))
            == (row["theoretical_capacity_tokens"])
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.information_gain([1, 2], [1]), r"nats_with has shape \(1,\).*2 numbers"),
        (lambda: metrics.information_gain([1, math.inf], [1, 1]), r"nats_without\[1\] is inf"),
        (lambda: metrics.information_gain([[1]], [[1]]), "nats_without has shape"),
        (lambda: metrics.information_gain([1], [1], score_first=False), "more than 1 numbers"),
        (lambda: metrics.information_gain(["a"], [1]), "nats_without are not all numbers"),
        (lambda: metrics.token_gain([1, 2], [1]), "correct_with is"),
        (lambda: metrics.token_gain([True], [1]), "flags or two of counts"),
        (lambda: metrics.token_gain([math.nan], [1.0]), r"correct_with\[0\] is nan"),
        (lambda: metrics.decoding_capacity([8, 16], [1.0]), "accuracies has shape"),
        (lambda: metrics.decoding_capacity([8], [99.0]), r"accuracies\[0\] is 99"),
        (lambda: metrics.decoding_capacity([0], [1.0]), r"lengths\[0\] is 0"),
        (lambda: metrics.published_sum(1.0, 1), "length 1 leaves no token"),
        (lambda: metrics.published_beyond_capacity(pd.DataFrame({"length": [8]})), "no column accuracy"),
        (lambda: metrics.published_beyond_capacity(TestBeyondCapacity.runs.assign(nats_with=math.nan)), "have nan"),
        (lambda: metrics.horizon_summary([math.nan]), r"horizons\[0\] is nan"),
        (lambda: metrics.bootstrap_ci([1], n_boot=0), "n_boot is 0"),
        (lambda: metrics.theoretical_capacity(-1, 10), "width -1"),
        (lambda: metrics.theoretical_capacity(1, 1), "vocabulary 1"),
    ],
)
def test_bad_input_is_one_clear_line(call, words):
    with pytest.raises(CrammingError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# Laws


def test_power_law_within_groups_ignores_what_lies_between_them():
    """Within each group y falls as 1/x, while the group of larger x has the larger y."""
    x, y = [1, 2, 100, 200], [10, 5, 1000, 500]
    assert metrics.power_law(x, y)["exponent"] > 0
    assert metrics.power_law(x, y, ["a", "a", "b", "b"])["exponent"] == pytest.approx(-1)


def test_interval_of_a_power_law_covers_its_exponent():
    generator = np.random.default_rng(1)
    x = generator.lognormal(size=200)
    found = metrics.power_law(x, x**-0.5 * generator.lognormal(sigma=0.3, size=200), n_boot=500)
    assert found["low"] < -0.5 < found["high"]
    assert found["high"] - found["low"] < 0.3


@given(
    c=st.floats(0, 50),
    base=st.lists(st.floats(0, 100), min_size=1, max_size=12),
)
def test_threshold_is_found_where_the_law_holds(c, base):
    rest = [max(0.0, value - c) for value in base]
    found = metrics.threshold(base, rest)
    assert [max(0.0, value - found) for value in base] == pytest.approx(rest, abs=1e-6)


@given(
    pairs=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=8), other=st.floats(0, 120)
)
def test_no_other_threshold_fits_better(pairs, other):
    base, rest = (np.array(side) for side in zip(*pairs, strict=True))

    def error(c):
        return float(((np.maximum(0, base - c) - rest) ** 2).sum())

    assert error(metrics.threshold(base, rest)) <= error(other) + 1e-6
