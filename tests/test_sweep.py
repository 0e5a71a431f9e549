"""Sweeps: what is wanted minus what is stored, whatever interrupts them, and rows that tell the truth."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cramming import engine, texts
from cramming.engine import Cram
from cramming.errors import CrammingError
from cramming.recipes import Recipe, recipe
from cramming.results.check import recheck
from cramming.results.estimate import plan_cost, rates, state_of
from cramming.results.plans import PLANS, Experiment, Plan, key_of, load_plan, store_of
from cramming.results.rows import crammed, row_of
from cramming.results.store import Store
from cramming.results.sweep import pending, results, sweep
from cramming.texts import passages
from tests.conftest import contents, model


def experiment(**changes) -> Experiment:
    """Three passages and two steps each."""
    blank = {"kind": "cram", "recipe": "best", "changes": {"max_steps": 2}, "source": "fresh", "n": 3, "lengths": [4]}
    return Experiment.model_validate(blank | changes)


def plan(*experiments: Experiment) -> Plan:
    return Plan(model="tiny-llama", experiments=experiments)


SIX = plan(experiment(lengths=[4, 6]))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def smoke(smoke_store, tmp_path) -> Store:
    """A copy of the smoke plan's store, to change at will."""
    return Store(shutil.copytree(smoke_store, tmp_path / "smoke"))


def run(wanted: Plan, store: Store, **options) -> int:
    return sweep(wanted, model("tiny-llama"), store, progress=False, **options)


def still_to_run(wanted: Plan, store: Store, *part) -> list[tuple[str, int]]:
    work = pending(wanted, model("tiny-llama"), store, *part)
    return [(passage.id, len(passage)) for _, some in work for passage in some]


def fails(match: str, call, *arguments, **options) -> None:
    with pytest.raises(CrammingError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


# The smoke plan, whole


def test_smoke_plan_is_stored_once(smoke):
    frame = smoke.frame()
    assert frame["kind"].value_counts().to_dict() == {"horizon": 30, "cram": 22}
    assert frame["source"].value_counts().to_dict() == {"novels": 34, "fresh": 16, "random": 2}
    assert smoke.keys() == set(smoke.vectors()) == set(frame["key"])
    before = contents(smoke.root)
    assert still_to_run(load_plan("smoke"), smoke) == []
    assert run(load_plan("smoke"), smoke) == 0
    assert contents(smoke.root) == before


def test_rows_add_up(smoke):
    for row in smoke.frame().itertuples():
        how, first = Recipe.model_validate_json(row.recipe_json), 0 if row.score_first else 1
        assert (how.name, how.score_first) == (row.recipe, row.score_first)
        assert hashlib.sha256(",".join(map(str, row.token_ids)).encode()).hexdigest()[:16] == row.passage_digest
        assert len(row.token_ids) == row.offered
        columns = (row.token_correct, row.token_nats_with, row.token_nats_without)
        assert [len(column) for column in columns] == [row.length] * 3
        assert row.nats_without == pytest.approx(row.token_nats_without[first:].sum(), rel=1e-5)
        assert row.correct_teacher == row.token_correct[first:].sum()
        assert (row.model, row.dtype, row.device.split()[0]) == ("tiny-llama", "float32", "cpu")
        assert row.n_vectors in {1, 2}
        assert row.model_digest == model("tiny-llama").digest
        assert row.trace_step[-1] == row.steps
        assert row.trace_token_passes[-1] == row.token_passes
        assert row.seconds > 0
        if row.kind == "horizon":
            # What is kept was measured, so certificate and measurement speak of the same vector.
            assert row.exact == (row.length > 0)
            assert row.correct_greedy == row.correct_with == row.length <= row.offered
            assert row.nats_with == pytest.approx(row.token_nats_with.sum(), rel=1e-3, abs=1e-3)
        else:
            assert row.length == row.offered
            assert row.accuracy == pytest.approx(row.correct_with / (row.length - first))
            if first:
                assert np.isnan(row.token_nats_with[0])
                assert not row.token_correct[0]
    assert (smoke.frame()["length"] >= 2).any()  # the premise: some horizons were reached


def test_rows_give_their_passages_back_cut_to_what_was_reached(smoke):
    frame, lm = smoke.frame(), model("tiny-llama")
    again = crammed(frame, lm)
    rows = frame[frame["length"] > 0]
    assert [(p.id, p.source, len(p)) for p in again] == list(
        rows[["passage", "source", "length"]].itertuples(index=False)
    )
    whole = rows["length"] == rows["offered"]
    assert whole.any()
    assert [p.digest for p, all_of_it in zip(again, whole, strict=True) if all_of_it] == rows.loc[
        whole, "passage_digest"
    ].tolist()


def test_no_row_names_a_place_on_this_machine(smoke):
    for text in smoke.frame().select_dtypes(include=["object", "str"]).to_numpy().flatten():
        assert not (isinstance(text, str) and ("/root" in text or "/home" in text or "/tmp" in text))


def test_every_stored_claim_holds_on_decoding_again(smoke):
    before = contents(smoke.root)
    frame = recheck(smoke, device="cpu", progress=False)
    assert frame["exact"].any()
    assert (frame["exact_now"] == frame["exact"]).all()
    np.testing.assert_allclose(frame["margin_now"].dropna(), frame.loc[frame["length"] > 0, "margin"], atol=1e-3)
    assert contents(smoke.root) == before


# What is pending


def test_new_experiments_alone_are_run(store):
    assert run(SIX, store) == 6
    before = contents(store.root)
    more = plan(*SIX.experiments, experiment(n=4), experiment(seed=1, n=1))
    assert still_to_run(more, store) == [(p.id, 4) for p in some_passages(4)[3:] + some_passages(1, seed=1)]
    assert run(more, store) == 2
    assert contents(store.root).items() > before.items()
    assert still_to_run(more, store) == []


def some_passages(n, length=4, seed=0):
    return passages("fresh", model("tiny-llama").tokenizer, n=n, length=length, seed=seed)


def test_run_asked_for_twice_is_run_once(store):
    assert run(plan(experiment(), experiment(batch=1), experiment(n=2)), store) == 3


def test_shares_cover_the_plan_and_do_not_overlap(store):
    everything = still_to_run(SIX, store)
    assert len(everything) == 6
    shares = [still_to_run(SIX, store, (i, 4)) for i in range(4)]
    assert sorted([entry for share in shares for entry in share]) == sorted(everything)
    # Also when one process is done before the other starts: its share is not dealt out again.
    assert run(SIX, store, part=(0, 2)) == 3
    assert run(SIX, store, part=(0, 2)) == 0
    assert sorted(still_to_run(SIX, store)) == sorted(still_to_run(SIX, store, (1, 2)))
    assert run(SIX, store, part=(1, 2)) == 3
    assert still_to_run(SIX, store) == []


def test_key_is_what_decides_the_result():
    lm, [passage, other] = model("tiny-llama"), some_passages(2)
    key = key_of(lm, experiment(), passage)
    same = [
        experiment(batch=1),
        experiment(n=9),
        experiment(lengths=[4, 8]),
        experiment(changes={"max_steps": 2, "name": "renamed"}),
        experiment(changes={"max_steps": 2, "lr": 0.2}),  # the default, spelled out
    ]
    assert {key_of(lm, e, passage) for e in same} == {key}
    different = [
        experiment(changes={"max_steps": 3}),
        experiment(recipe="paper"),
        experiment(seed=1),
        experiment(n_vectors=2),
        experiment(kind="horizon", recipe="horizon"),
        experiment(path=True),
    ]
    keys = [key_of(lm, e, passage) for e in different]
    keys += [key_of(lm, experiment(), other), key_of(lm, experiment(), some_passages(1, length=5)[0])]
    keys += [key_of(model("tiny-opt"), experiment(), passage)]
    assert len({key, *keys}) == 1 + len(keys)


def test_path_is_stored_where_it_is_asked_for(store):
    growing = {
        "kind": "horizon",
        "recipe": "horizon",
        "changes": {"max_token_passes": 40, "restart_steps": None},
        "n": 2,
    }
    assert run(plan(experiment(**growing), experiment(**growing, path=True)), store) == 4
    paths, vectors = store.paths(), store.vectors()
    assert len(paths) == 2
    for key, path in paths.items():
        assert path.shape[1:] == vectors[key].shape


# Interrupted


def test_interrupted_while_storing(store):
    class Interrupted(Store):
        def add(self, row, mem, path=None):
            if len(self.keys()) == 2:
                raise KeyboardInterrupt
            super().add(row, mem, path)

    with pytest.raises(KeyboardInterrupt):
        run(SIX, Interrupted(store.root))
    before = contents(store.root)
    assert len(store.keys()) == 2
    assert run(SIX, store) == 4
    assert contents(store.root).items() > before.items()


def test_interrupted_while_storing_the_last_run_of_an_experiment(store):
    """Nothing is in flight then, so the engine returns as if all were well; the sweep must still stop."""

    class Interrupted(Store):
        def add(self, row, mem, path=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan(experiment(n=1), experiment(n=1, lengths=[5])), Interrupted(store.root))


@pytest.mark.parametrize("recipe_name", ["best", "paper", "horizon"])
def test_interrupted_in_a_step(store, tmp_path, monkeypatch, recipe_name):
    score, calls = engine.score, []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    kind = "horizon" if recipe_name == "horizon" else "cram"
    changes = {"max_steps": 8, "max_token_passes": None}
    wanted = plan(experiment(kind=kind, recipe=recipe_name, changes=changes, batch=1))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(wanted, store)
    # The first passage took its eight steps; the second had taken two, and goes on from there.
    assert len(store.keys()) == len(store.vectors()) == 1
    counted = []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "score", lambda *a, **options: (counted.append(a), score(*a, **options))[1])
        assert run(wanted, store) == 2
    assert len(counted) == 6 + 8
    assert not list((store.root / "unfinished").iterdir())
    # As if nothing had happened.
    whole = Store(tmp_path / "whole")
    run(wanted, whole)
    costs = ["seconds", "cpu_seconds"]
    pd.testing.assert_frame_equal(store.frame().drop(columns=costs), whole.frame().drop(columns=costs))
    assert all(torch.equal(mem, whole.vectors()[key]) for key, mem in store.vectors().items())


def test_store_that_cannot_be_written_is_found_out_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "score", lambda *_, **__: pytest.fail("crammed in vain"))
    (tmp_path / "file").write_text("kept")
    fails("cannot be written", run, SIX, Store(tmp_path / "file" / "results"))
    assert (tmp_path / "file").read_text() == "kept"


def test_nothing_pending_asks_for_no_writable_store(smoke, monkeypatch):
    """A reader of the shipped results may have them on a medium that cannot be written."""
    monkeypatch.setattr(Store, "prepare", lambda _: pytest.fail("tried to write"))
    assert run(load_plan("smoke"), smoke) == 0
    assert len(results("smoke", store=smoke, progress=False)) == len(smoke.keys())


def test_results_are_those_of_the_plan_and_computed_where_missing(store, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(plan(experiment(n=1)).model_dump(mode="json")))
    run(plan(experiment(n=1, lengths=[6])), store)  # of another plan
    frame = results(str(path), store=store, progress=False)
    assert frame["offered"].tolist() == [4]
    assert len(store.keys()) == 2
    before = contents(store.root)
    pd.testing.assert_frame_equal(results(str(path), store=store, progress=False), frame)
    assert contents(store.root) == before


def test_page_has_its_part_of_a_plan(store):
    shared, own, other = experiment(n=1), experiment(n=2, pages=["one"]), experiment(lengths=[6], pages=["two"])
    wanted = plan(shared, own, other)
    assert wanted.of("one").experiments == (shared, own)
    assert wanted.of(None) == wanted
    with pytest.raises(CrammingError, match="nothing for page 'three': it has some for one, two"):
        plan(own, other).of("three")
    run(wanted.of("two"), store)
    assert set(store.frame()["offered"]) == {4, 6}


def test_experiment_can_pass_over_the_passages_of_another(store):
    assert run(plan(experiment(n=3), experiment(n=1, skip=2), experiment(n=2, skip=3)), store) == 5
    ids = {p.id for p in passages("fresh", model("tiny-llama").tokenizer, n=5, length=4)}
    assert set(store.frame()["passage"]) == ids


def test_the_same_passages_from_several_seeds(store):
    again = [experiment(seed=seed, text_seed=0, n=2) for seed in (0, 1)]
    assert run(plan(*again), store) == 4
    frame = store.frame()
    assert set(frame.groupby("passage")["seed"].agg(tuple)) == {(0, 1)}
    assert frame["nats_with"].nunique() == 4  # the noise differs
    # The seed of the passages is no part of what decides a run.
    assert still_to_run(plan(experiment(seed=0, n=2)), store) == []


def test_passages_from_inside_their_texts(store):
    [inner] = [experiment(offset=5, n=1)]
    assert run(plan(inner), store) == 1
    row = store.frame().iloc[0]
    [whole] = texts.passages("fresh", model("tiny-llama").tokenizer, n=1, length=9)
    assert row["passage"] == f"{whole.id}+5"
    assert tuple(row["token_ids"]) == whole.token_ids[5:]


def test_an_experiment_for_one_model_of_several(store):
    wanted = Plan(
        model=("tiny-llama", "tiny-olmo"), experiments=(experiment(n=1), experiment(n=2, models=["tiny-olmo"]))
    )
    assert len(still_to_run(wanted, store)) == 1
    work = pending(wanted, model("tiny-olmo"), store)
    assert [len(some) for _, some in work] == [1, 1]


def test_estimate_is_the_most_that_can_be_spent(store):
    growing = experiment(kind="horizon", recipe="horizon", changes={"max_token_passes": 50}, lengths=[20], n=2)
    wanted = plan(experiment(lengths=[4, 6], n=3), growing)
    frame = plan_cost(wanted).set_index("recipe")
    # Two steps of 3 + 1 and of 5 + 1 positions, three passages each.
    assert frame.loc["best", ["runs", "tokens", "token_passes"]].tolist() == [6, 30, 2 * 3 * (4 + 6)]
    assert frame.loc["horizon", "runs"] == 2
    assert run(wanted, store) == 8
    spent = store.frame().groupby("recipe")["token_passes"].sum()
    assert spent["best"] == frame.loc["best", "token_passes"]
    assert spent["horizon"] <= frame.loc["horizon", "token_passes"]
    parameters = model("tiny-llama").model.num_parameters()
    assert frame.loc["best", "operations"] == 4 * parameters * 60


def test_estimate_counts_what_is_stored_and_what_has_a_checkpoint(store):
    twice = plan(experiment(lengths=[4, 6]), experiment(n=2), experiment(n=1, n_vectors=2))
    before = plan_cost(twice, store)
    assert before["runs"].tolist() == before["pending"].tolist() == [6, 1]  # what two experiments ask for counts once
    pd.testing.assert_frame_equal(before, plan_cost(twice))
    run(plan(experiment(lengths=[6])), store)
    [key, *_] = [key_of(model("tiny-llama"), experiment(), passage) for passage in some_passages(3)]
    store.checkpoint(key, {"x": torch.zeros(1)})
    after = plan_cost(twice, store).iloc[0]
    assert after[["runs", "stored", "unfinished", "pending", "tokens"]].tolist() == [6, 3, 1, 3, 12]
    assert after["token_passes"] == 2 * 3 * 4
    assert state_of(store).endswith("3 runs stored, 1 with a checkpoint, 0 shards set aside")
    known = rates(twice, store)
    assert known["device"].tolist()[0] == "large GPU"
    frame = store.frame()
    parameters = model("tiny-llama").model.num_parameters()
    assert known["rate"].iloc[-1] == pytest.approx(
        4 * parameters * frame["token_passes"].sum() / frame["seconds"].sum()
    )


def test_estimate_of_the_paper_needs_no_weights():
    frame = plan_cost(load_plan("paper"))
    assert frame["model"].nunique() == 14
    assert set(frame["source"]) == {"pg19", "fanfics", "random"}
    assert set(frame.query("n_vectors > 1")["model"]) == {"Pythia-160M", "Llama-3.2-1B"}
    assert (frame["gpu_hours"] > 0).all()


def test_experiment_of_several_sources(store):
    assert run(plan(experiment(source=["novels", "fresh"], n=1)), store) == 2
    assert set(store.frame()["source"]) == {"novels", "fresh"}


def test_plan_of_several_models_holds_the_runs_of_each(store, tmp_path):
    path = tmp_path / "mine.yaml"
    both = Plan(model=("tiny-llama", "tiny-opt"), experiments=(experiment(n=1),))
    path.write_text(yaml.safe_dump(both.model_dump(mode="json")))
    assert load_plan(str(path)).models == ("tiny-llama", "tiny-opt")
    frame = results(str(path), store=store, progress=False).set_index("model")
    assert sorted(frame.index) == ["tiny-llama", "tiny-opt"]
    for name in both.models:
        assert frame.loc[name, "model_digest"] == model(name).digest
        for column in ("provenance", "width", "vocab_size"):
            assert frame.loc[name, column] == getattr(model(name), column)
    assert recheck(store, device="cpu", progress=False)["model"].tolist() == ["tiny-llama", "tiny-opt"]


def test_each_plan_has_a_store_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr("cramming.results.plans.RESULTS", tmp_path)
    assert store_of("laptop").root == tmp_path / "laptop"
    assert store_of("plans/mine.yaml").root == tmp_path / "mine"


# Rows of odd runs


def test_horizon_of_0_is_a_row_too(store):
    changes = {"max_token_passes": 5, "growth": {"start": 5}}
    assert run(plan(experiment(kind="horizon", recipe="horizon", changes=changes, lengths=[8])), store) == 3
    frame = recheck(store, device="cpu", progress=False)
    assert (frame["length"] == 0).all()
    assert not frame["exact"].any()
    assert not frame["exact_now"].any()
    assert (frame["offered"] == 8).all()
    assert (frame["nats_with"] == 0).all()
    assert all(len(tokens) == 0 for tokens in frame["token_correct"])


def test_long_trace_is_thinned_but_keeps_its_end_and_its_best(store):
    lm, [passage] = model("tiny-llama"), some_passages(1)
    losses = np.linspace(9, 5, 5003)
    losses[1234] = 0.125
    trace = [(i + 1, 4, float(loss), 0.5, 4 * (i + 1)) for i, loss in enumerate(losses)]
    mem = torch.randn(1, lm.width)
    result = Cram(passage, mem, 4, np.ones(4, bool), np.zeros(4), "budget", 5003, 20012, 1.0, 1.0, trace)
    store.add(*row_of(lm, experiment(), result))
    [row] = store.frame().itertuples()
    assert len(row.trace_step) <= 402
    assert row.trace_step[0] == 1
    assert row.trace_step[-1] == 5003
    assert row.trace_loss.min() == 0.125
    assert row.trace_step[row.trace_loss.argmin()] == 1235
    assert set(map(len, (row.trace_length, row.trace_loss, row.trace_accuracy, row.trace_token_passes))) == {
        len(row.trace_step)
    }


# Checking


def tamper(store: Store, change) -> str:
    """Change the vector of one exact run on disk; its key."""
    key = store.frame().query("exact")["key"].iloc[0]
    [path] = [path for path in store.root.glob("*.safetensors") if key in load_file(path)]
    vectors = load_file(path)
    change(vectors, key)
    save_file(vectors, path)
    # As if an older version had written it, which did not note the digest of the vectors.
    rows = path.with_suffix(".parquet")
    pq.write_table(pq.read_table(rows).replace_schema_metadata(), rows)
    return key


def test_changed_vector_is_found_out(smoke):
    def negate(vectors, key):
        vectors[key] = -vectors[key]

    key = tamper(smoke, negate)
    frame = recheck(smoke, device="cpu", progress=False).set_index("key")
    assert frame.loc[key, "exact"]
    assert not frame.loc[key, "exact_now"]
    assert frame.loc[key, "margin_now"] <= 0
    others = frame.drop(key)
    assert (others["exact"] == others["exact_now"]).all()


def test_vector_that_is_gone_or_spoilt_is_named(smoke):
    key = tamper(smoke, lambda vectors, key: vectors[key].fill_(torch.nan))
    fails("not finite", recheck, smoke, device="cpu", progress=False)
    tamper(smoke, lambda vectors, key: vectors.pop(key))
    fails(f"run {key} of .* has no vector in the store: restore its shard", recheck, smoke, progress=False)


def test_other_weights_are_refused(smoke):
    rows = [row | {"model_digest": "0" * 16} for row in smoke.frame().to_dict("records")]
    vectors = smoke.vectors()
    for row in rows:
        smoke.add(row, vectors[row["key"]])
    digest = model("tiny-llama").digest
    fails(f"tiny-llama {'0' * 16}, the model here is {digest}", recheck, smoke, device="cpu", progress=False)


def test_empty_store_has_nothing_to_check(store):
    frame = recheck(store, progress=False)
    assert frame.empty
    assert {"exact", "exact_now", "margin_now"} <= set(frame.columns)


# Plans


@pytest.mark.parametrize("scale", sorted(path.stem for path in PLANS.glob("*.yaml")))
def test_shipped_plans_can_be_carried_out(scale):
    wanted = load_plan(scale)
    for entry in wanted.experiments:
        assert isinstance(entry.resolved(), Recipe)
        assert set(entry.sources) <= set(texts.SOURCES)


def test_plan_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SIX.model_dump(mode="json")))
    assert load_plan(str(path)) == SIX


def test_plan_there_is_none_of():
    fails(
        "scale 'galaxy' has no plan: use one of architectures, bfloat16, cuts, gemma, laptop, paper, "
        "smoke, smoke-cuts, smoke-second, or the path of a YAML file",
        load_plan,
        "galaxy",
    )
    fails("scale 'none.yaml' has no plan", load_plan, "none.yaml")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "plan mine.yaml is not valid"),
        ("model: tiny-llama\nexperiments: [", "mine.yaml cannot be read .*the plan is not valid"),
        ("model: tiny-llama\n", "experiments"),
        ("model: tiny-llama\nexperiments: [{kind: bake}]", "experiments.0.kind"),
        ("model: tiny-llama\ncolour: red\nexperiments: []", "colour"),
        ("model: ../elsewhere\nexperiments: []", "a path out of this folder"),
        ("model: [tiny-llama, /etc]\nexperiments: []", "a path out of this folder"),
        (
            "a: &a [" + "x, " * 99 + "]\nb: &b [" + "*a, " * 99 + "]\nc: [" + "*b, " * 99 + "]",
            "with its aliases written",
        ),
        ("a: &a [*a]", "an alias stands within what it stands for"),
        ("[" * 9000, "cannot be read"),
        ("a: 9999-99-99", "cannot be read"),
        ("a: " + "x" * 200_000, "at most are read"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("model: t\nexperiments: [{kind: cram, recipe: best, source: fresh, n: 0, lengths: [4]}]", "experiments.0.n"),
    ],
)
def test_plan_that_is_not_one(tmp_path, text, match):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    fails(match, load_plan, str(path))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"recipe": "wurst"}, "recipe 'wurst' is unknown"),
        ({"changes": {"momentum": 0.9}}, "momentum = 0.9 is refused"),
        ({"source": "nowhere"}, "source 'nowhere' is unknown"),
        ({"lengths": [-4]}, "length=-4"),
        ({"kind": "horizon"}, "kind 'horizon' and recipe 'best' do not go together"),
        ({"recipe": "horizon", "changes": {}}, "kind 'cram' and recipe 'horizon' do not go together"),
    ],
)
def test_experiment_that_cannot_be_run_is_refused_before_any_is(store, monkeypatch, changes, match):
    monkeypatch.setattr(engine, "score", lambda *_, **__: pytest.fail("crammed in vain"))
    fails(match, run, plan(experiment(), experiment(**changes)), store)
    assert store.keys() == set()


def test_results_do_not_depend_on_the_batch(tmp_path):
    frames = []
    for batch in (1, 3):
        store = Store(Path(tmp_path) / str(batch))
        run(plan(experiment(recipe="paper", changes={"max_steps": 5}, batch=batch)), store)
        frames.append(store.frame())
    one, three = frames
    same = ["key", "passage", "length", "ended", "steps", "token_passes", "correct_with", "correct_greedy", "exact"]
    assert one[same].equals(three[same])
    np.testing.assert_allclose(one["nats_with"], three["nats_with"], rtol=1e-4)
    assert recipe("paper").name == one["recipe"].unique().item()
