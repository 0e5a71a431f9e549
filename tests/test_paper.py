import math

import pandas as pd
import pytest

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import recipe
from cramming.results import published as numbers
from cramming.results.published import FAR, MISSING, NEAR, OUTSIDE, RELATED, WITHIN
from cramming.results.store import Store

CAPACITY, MODELS = numbers.published("capacity"), numbers.published("models")
NOTHING = Store("no such folder").frame()


class TestPublished:
    @pytest.mark.parametrize(
        ("table", "rows", "column", "total"),
        [
            ("capacity", 34, "decoding_capacity_tokens", 12_400),
            ("capacity", 34, "token_gain_mean", 10_035.7),
            ("capacity", 34, "information_gain_nats_mean", 55_607.8),
            ("n_vectors", 13, "decoding_capacity_tokens", 23_024),
            ("models", 14, "theoretical_capacity_tokens", 27_141),
            ("models", 14, "utilisation_pg19", 1.9717),
            ("progressive", 20, "horizon_tokens_mean", 10_195.6),
            ("attention_mass", 12, "mem_attention_mass_percent_mean", 413.66),
            ("temperature", 29, "horizon_tokens_mean", 26595.1),
            ("layers", 23, "horizon_tokens_mean", 7427.9),
            ("width", 3, "information_gain_bits_mean", 2747),
            ("low_dim", 24, "horizon_tokens_mean", 16386.9),
            ("stage_tokens", 8, "steps_mean", 65421.0),
        ],
    )
    def test_tables_are_as_published(self, table, rows, column, total):
        frame = numbers.published(table)
        assert len(frame) == rows
        assert frame[column].sum() == pytest.approx(total)

    def test_the_number_in_the_title(self):
        row = CAPACITY[CAPACITY["model"].eq("meta-llama/Meta-Llama-3.1-8B") & CAPACITY["source"].eq("pg19")].iloc[0]
        assert row["decoding_capacity_tokens"] == CAPACITY["decoding_capacity_tokens"].max() == 1568
        assert (row["token_gain_mean"], row["information_gain_nats_mean"]) == (1094.1, 4865.7)

    def test_sources(self):
        assert CAPACITY["source"].value_counts().to_dict() == {"pg19": 14, "random": 14, "fanfics": 6}

    def test_every_model_is_one_of_the_14(self):
        assert set(CAPACITY["model"].map(numbers.hub_id)) == set(MODELS["hub_id"])
        assert set(numbers.published("n_vectors")["model"]) <= set(MODELS["hub_id"])

    def test_one_vector_repeats_the_capacity_table(self):
        one = numbers.published("n_vectors").query("n_vectors == 1").drop(columns="n_vectors").set_index("model")
        same = CAPACITY[CAPACITY["source"] == "pg19"].drop(columns="source").set_index("model").loc[one.index]
        pd.testing.assert_frame_equal(one, same)

    def test_types(self):
        progressive = numbers.published("progressive")
        assert progressive["information_gain_bits_mean"].dtype == "float64"
        assert progressive["n_samples"].dtype == "Int64"
        assert CAPACITY["decoding_capacity_tokens"].dtype == "int64"

    def test_capacities_on_texts_are_lengths_of_the_grid(self):
        assert set(CAPACITY[CAPACITY["source"] != "random"]["decoding_capacity_tokens"]) <= set(numbers.LENGTH_GRID)

    def test_unknown_table_names_the_known(self):
        with pytest.raises(CrammingError, match="'table1': choose one of capacity, models, n_vectors"):
            numbers.published("table1")

    def test_hub_id_knows_short_and_old_names_and_leaves_others_alone(self):
        assert numbers.hub_id("pythia-160M") == "EleutherAI/pythia-160m"
        assert numbers.hub_id("meta-llama/Meta-Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
        assert numbers.hub_id("someone/pythia-160m") == "someone/pythia-160m"


@pytest.mark.parametrize("source", ["pg19", "random"])
def test_utilisation_is_token_gain_over_the_bound(source):
    gains = CAPACITY[CAPACITY["source"] == source].assign(hub_id=lambda t: t["model"].map(numbers.hub_id))
    table = MODELS.merge(gains, on="hub_id", validate="one_to_one")
    assert len(table) == 14
    for row in table.to_dict("records"):
        gain = row["token_gain_mean"]
        if (row["name"], source) == ("Pythia-2.8B", "random"):
            gain = 134.3  # the published share goes with the gain of an earlier release, see data/paper/README.md
        share = metrics.utilisation(gain, row["hidden_size"], row["vocab_size"])
        assert round(share, 4) == row[f"utilisation_{source}"], row["name"]


def crammed(accuracies, model="Pythia-160M", source="pg19", gain=70.9, nats=396.4, passages=4, how=None, **columns):
    """Runs of the paper recipe: an accuracy for each length, whose published gains come out as asked."""
    rows = [
        {
            "kind": "cram",
            "recipe_json": (how or recipe("paper")).model_dump_json(),
            "model": model,
            "source": source,
            "n_vectors": 1,
            "passage": f"{source}/{passage}",
            "length": length,
            "accuracy": accuracy,
            "correct_with": 10 + gain * (length - 1) / length,
            "correct_without": 10,
            "nats_with": 5.0,
            "nats_without": 5 + nats * (length - 1) / length,
            "trace_loss": [9.0, 5 / (length - 1), 6.0],
        }
        | columns
        for length, accuracy in accuracies.items()
        for passage in range(passages)
    ]
    return pd.DataFrame(rows)


def verdicts(results, model="EleutherAI/pythia-160m", source="pg19", **options):
    rows = numbers.ledger(results, **{name: value for name, value in options.items() if name != "k"})
    one = (rows["model"] == model) & (rows["source"] == source) & (rows["n_vectors"] == options.get("k", 1))
    return rows[one].set_index("quantity")


class TestLedger:
    def test_lists_every_published_number_once(self):
        rows = numbers.ledger(NOTHING)
        several = numbers.published("n_vectors").query("n_vectors > 1")
        counted = several.filter(regex="capacity|_mean").notna().to_numpy().sum()
        assert len(rows) == 3 * len(CAPACITY) + counted
        assert not rows.duplicated(["model", "source", "n_vectors", "quantity"]).any()
        assert set(rows["verdict"]) == {MISSING}
        assert rows["published"].notna().all()
        rows = rows[rows["n_vectors"] == 1]
        for quantity, column in (
            ("decoding_capacity", "decoding_capacity_tokens"),
            ("token_gain", "token_gain_mean"),
            ("information_gain", "information_gain_nats_mean"),
        ):
            assert rows[rows["quantity"] == quantity]["published"].tolist() == CAPACITY[column].tolist()

    def test_says_why_a_number_was_not_reproduced(self):
        reason = verdicts(NOTHING)["reason"]["token_gain"]
        assert reason == "weights and pg19 on the hub"
        assert verdicts(NOTHING, source="random")["reason"]["token_gain"] == "weights on the hub"

    def test_a_faithful_reproduction_is_within_tolerance(self):
        mine = verdicts(crammed({64: 1.0, 80: 0.99, 96: 0.9}))
        assert mine["verdict"].tolist() == [WITHIN] * 3
        assert mine["ours"].tolist() == pytest.approx([80, 70.9, 396.4])
        assert mine["ours_n"].tolist() == [4, 4, 4]
        assert mine["tolerance"]["decoding_capacity"] == "64 to 96 (one length bin)"
        assert mine["tolerance"]["token_gain"] == "± 11.0 (2 standard errors, n = 4)"

    @pytest.mark.parametrize("model", ["EleutherAI/pythia-160m", "pythia-160m"])
    def test_a_model_counts_under_each_of_its_names(self, model):
        assert verdicts(crammed({80: 1.0, 96: 0.9}, model=model))["verdict"]["token_gain"] == WITHIN

    def test_old_id_of_the_8b_model(self):
        runs = crammed({1568: 1.0, 2048: 0.9}, model="meta-llama/Llama-3.1-8B", gain=1094.1)
        mine = verdicts(runs, model="meta-llama/Meta-Llama-3.1-8B")
        assert mine["verdict"][["decoding_capacity", "token_gain"]].tolist() == [WITHIN] * 2

    @pytest.mark.parametrize(
        ("accuracies", "verdict"),
        [
            ({64: 1.0, 80: 0.9}, WITHIN),
            ({32: 1.0, 64: 0.9}, OUTSIDE),
            ({128: 1.0, 160: 0.9}, OUTSIDE),
            ({128: 1.0}, OUTSIDE),  # at least 128 is too much already
            ({64: 1.0, 80: 1.0}, MISSING),  # 128 might have passed too
            ({64: 1.0, 512: 0.9}, MISSING),
            ({96: 0.9}, MISSING),
            ({64: 0.9}, OUTSIDE),
        ],
    )
    def test_capacity_may_be_one_bin_away_and_what_was_not_run_stays_open(self, accuracies, verdict):
        assert verdicts(crammed(accuracies))["verdict"]["decoding_capacity"] == verdict

    def test_undecided_says_what_to_run(self):
        reason = verdicts(crammed({64: 1.0, 160: 0.9}))["reason"]["decoding_capacity"]
        assert reason == "undecided: at least 64, but 80 to 128 were not run"

    def test_gain_tolerance_shrinks_with_passages_not_with_lengths(self):
        at = {"gain": 70.9 + 8}
        assert verdicts(crammed({96: 0.9}, **at))["verdict"]["token_gain"] == WITHIN
        assert verdicts(crammed({96: 0.9, 128: 0.8, 160: 0.7}, **at))["verdict"]["token_gain"] == WITHIN
        assert verdicts(crammed({96: 0.9}, passages=16, **at))["verdict"]["token_gain"] == OUTSIDE
        assert verdicts(crammed({96: 0.9}, **at), tolerance=1)["verdict"]["token_gain"] == OUTSIDE

    def test_runs_within_capacity_give_no_gain(self):
        mine = verdicts(crammed({64: 1.0, 80: 1.0}))
        assert mine["verdict"]["token_gain"] == MISSING
        assert math.isnan(mine["ours"]["token_gain"])
        assert "above 0.99" in mine["reason"]["token_gain"]

    @pytest.mark.parametrize(
        "columns",
        [
            {"how": recipe("best")},
            {"how": recipe("paper", max_steps=10)},
            {"how": recipe("paper", score_first=True)},
            {"kind": "horizon"},
            {"n_vectors": 3},
            {"source": "novels"},
            {"model": "someone/pythia-160m"},
        ],
        ids=str,
    )
    def test_runs_made_otherwise_do_not_count(self, columns):
        assert set(numbers.ledger(crammed({80: 1.0, 96: 0.9}, **columns))["verdict"]) == {MISSING}

    def test_several_vectors_have_rows_of_their_own(self):
        runs = crammed({128: 1.0, 192: 1.0, 256: 0.9}, gain=150.3, nats=828.5, n_vectors=2)
        assert verdicts(runs, k=2)["verdict"].tolist() == [WITHIN] * 3
        assert set(verdicts(runs)["verdict"]) == {MISSING}

    def test_runs_of_other_stores_can_be_put_together(self):
        runs = pd.concat([crammed({80: 1.0, 96: 0.9}), crammed({96: 0.9}, n_vectors=2)])
        assert verdicts(runs)["verdict"].tolist() == [WITHIN] * 3

    def test_the_lowest_loss_of_a_run_counts_at_whatever_step(self):
        runs = crammed({80: 1.0, 96: 0.9})
        runs["trace_loss"] = [[3.0, 0.01, 2.0]] * len(runs)
        expected = 396.4 + (5 - 0.01 * 95) * 96 / 95
        assert verdicts(runs)["ours"]["information_gain"] == pytest.approx(expected)

    def test_a_frame_without_its_columns(self):
        with pytest.raises(CrammingError, match="the results have no column accuracy, correct_with"):
            numbers.ledger(pd.DataFrame({"kind": ["cram"], "model": ["m"]}))


@pytest.mark.parametrize(
    ("capacity", "bounds"),
    [(80, (64, 96)), (1568, (1280, 2048)), (8, (0, 16)), (65, (49, 81)), (792, (536, 1048))],
)
def test_capacity_bounds(capacity, bounds):
    assert numbers.capacity_bounds(capacity) == bounds


class TestProgressiveLedger:
    def horizons(self, model, length=38, **columns):
        row = {"kind": "horizon", "how": recipe("progressive"), "nats_without": 120.0, "nats_with": 4.0}
        return crammed({length: 1.0}, model=model, **(row | columns))

    def rows(self, results, model):
        rows = numbers.progressive_ledger(results)
        return rows[(rows["model"] == model) & (rows["setting"] == "model scales")].set_index("quantity")

    def test_lists_every_published_number(self):
        rows = numbers.progressive_ledger(NOTHING)
        assert len(rows) == 2 * len(numbers.published("progressive"))
        assert set(rows["verdict"]) == {MISSING}

    def test_same_weights_and_protocol_get_a_verdict(self):
        mine = self.rows(self.horizons("HuggingFaceTB/SmolLM2-135M"), "HuggingFaceTB/SmolLM2-135M")
        assert mine["verdict"].tolist() == [WITHIN, WITHIN]
        assert mine["ours"].tolist() == pytest.approx([38, 116 / math.log(2)])

    @pytest.mark.parametrize(("length", "verdict"), [(38, NEAR), (20, NEAR), (400, NEAR), (19, FAR)])
    def test_a_relative_is_near_or_far_at_most(self, length, verdict):
        """Published for the base model: 38.5 tokens."""
        results = self.horizons("smollm2-135m", length=length, how=recipe("best"), source="novels")
        mine = self.rows(results, "HuggingFaceTB/SmolLM2-135M")
        assert mine["verdict"]["horizon"] == verdict
        assert mine["ours"]["horizon"] == length
        for word in ("Instruct", "4-bit", "best", "novels"):
            assert word in mine["reason"]["horizon"]
        assert ("times as much" in mine["reason"]["horizon"]) == (verdict == FAR)
        assert mine["kind"].tolist() == [RELATED] * 2

    def test_another_recipe_is_near_or_far_at_most(self):
        mine = self.rows(self.horizons("EleutherAI/pythia-160m"), "EleutherAI/pythia-160m")
        assert set(mine["verdict"]) == {NEAR}
        assert mine["reason"]["horizon"] == "our recipe is progressive, theirs progressive with lr = 0.5"

    def test_each_of_our_groups_has_a_row(self):
        results = pd.concat([self.horizons("smollm2-135m", source=source) for source in ("novels", "fresh")])
        mine = self.rows(results, "HuggingFaceTB/SmolLM2-135M")
        assert mine.loc["horizon", "our_source"].tolist() == ["fresh", "novels"]

    def test_low_dimensional_runs_are_never_ours(self):
        how = recipe("progressive", lr=0.5)
        rows = numbers.progressive_ledger(self.horizons("EleutherAI/pythia-1.4b", length=430, how=how))
        rows = rows[(rows["model"] == "EleutherAI/pythia-1.4b") & (rows["quantity"] == "horizon")]
        assert rows.set_index("setting")["verdict"].to_dict() == {
            "model scales": OUTSIDE,
            "main table": WITHIN,
            "main table low-dim 256": MISSING,
        }


class TestOtherLedgers:
    def test_other_tables_of_the_later_paper_have_a_row_for_every_number_that_is_not_there_already(self):
        rows = numbers.later_ledger()
        tables = [numbers.published(table) for table in numbers.LATER]
        counted = sum(table.filter(regex="_mean").size for table in tables)
        again = [
            table.merge(numbers.published("progressive"), on=["model", "horizon_tokens_mean"]) for table in tables
        ]
        assert len(rows) == counted - 2 * sum(map(len, again)) == counted - 2 * 6
        assert not rows.duplicated(["model", "setting", "quantity"]).any()
        assert set(rows["verdict"]) == {MISSING}
        assert "first 8 of 24 layers" in set(rows["setting"])

    def test_bounds_follow_by_arithmetic_but_for_one_of_an_earlier_release(self):
        rows = numbers.bounds_ledger()
        expected = MODELS.drop(columns=["name", "hub_id", "params_billion", "hidden_size", "vocab_size"])
        assert len(rows) == expected.notna().to_numpy().sum()
        wrong = rows[rows["verdict"] == OUTSIDE]
        assert wrong[["model", "source", "published"]].to_numpy().tolist() == [
            ["EleutherAI/pythia-2.8b", "random", 0.0512]
        ]
        assert "0.0513" in wrong["reason"].item()
        assert set(rows.query("quantity == 'text_cross_entropy'")["verdict"]) == {MISSING}
        assert set(rows.query("quantity == 'theoretical_capacity'")["verdict"]) == {WITHIN}

    @pytest.mark.parametrize(("share", "verdict"), [(0.61, NEAR), (0.31, NEAR), (0.29, FAR), (0.9, NEAR)])
    def test_attention_of_the_related_model(self, share, verdict):
        """Published for the base model: 60.79 % on mem, 74.04 % on the first token."""
        mem = pd.DataFrame({"passage": ["a", "a", "b"], "share": [share - 0.1, share + 0.1, share]})
        rows = numbers.attention_ledger(mem, mem.head(0), "smollm2-135m").set_index(["model", "quantity"])
        assert len(rows) == 2 * len(numbers.published("attention_mass"))
        mine = rows.loc["HuggingFaceTB/SmolLM2-135M"]
        assert mine.loc["attention_on_mem", ["verdict", "ours_n"]].tolist() == [verdict, 2]
        assert mine.loc["attention_on_mem", "ours"] == pytest.approx(100 * share)
        assert mine.loc["attention_on_first_token", "verdict"] == MISSING
        assert set(rows.drop("HuggingFaceTB/SmolLM2-135M", level="model")["verdict"]) == {MISSING}

    def test_twice_as_much_attention_is_no_agreement(self):
        mem = pd.DataFrame({"passage": ["a"], "share": [0.45]})
        rows = numbers.attention_ledger(mem, mem, "meta-llama/Llama-3.2-1B").set_index(["model", "quantity"])
        assert rows.loc[("meta-llama/Llama-3.2-1B", "attention_on_mem"), "verdict"] == FAR  # 20.71 % published
        assert rows.loc[("meta-llama/Llama-3.2-1B", "attention_on_first_token"), "verdict"] == NEAR
