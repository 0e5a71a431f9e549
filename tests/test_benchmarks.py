"""The benchmarks as a user calls them, on the smallest input there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import device
from cramming import engine
from cramming.errors import CrammingError
from cramming.paths import BENCHMARKS
from cramming.recipes import Recipe
from cramming.results import estimate
from cramming.results.store import Store
from cramming.studies import scale

HERE = Path(__file__).resolve().parent.parent / "benchmarks"


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, HERE / script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_systems_are_compared_in_one_command(smoke_store):
    out = run("systems.py", "--scale", "smoke", "--store", smoke_store)
    for name in estimate.SYSTEMS.values():
        assert name in out
    assert "at least 128" in out


def test_steps_are_timed_with_the_machine_beside_them(tmp_path):
    out = tmp_path / "steps.parquet"
    run("step_cost.py", "--model", "tiny-llama", "--repeats", 1, "--max-steps", 5, "--out", out)
    mine, shipped = pd.read_parquet(out), pd.read_parquet(BENCHMARKS / "step_cost.parquet")
    assert set(mine) == set(shipped)
    assert (mine.dropna(subset="seconds")["matmul_gflops"] > 0).all()
    steps = estimate.step_cost(mine)
    shapes = ["what", "passages", "tokens", "n_vectors"]
    assert steps[shapes].to_dict("list") == estimate.step_cost(shipped)[shapes].to_dict("list")
    assert steps["share"].between(0, 1).all()


def test_executors_are_held_against_serial(tmp_path):
    out = tmp_path / "executors.parquet"
    small = ("--n", 2, "--steps", 2, "--tokens", 4, "--batch", 1, "--rounds", 1)
    run("executors.py", "--model", "tiny-llama", *small, "--out", out)
    mine, shipped = pd.read_parquet(out), pd.read_parquet(BENCHMARKS / "executors.parquet")
    assert set(mine) == set(shipped)
    assert mine["token_passes"].tolist() == [2 * 2 * 4] * 2
    summary = scale.executors(mine)
    assert list(summary.index) == ["serial", "dask"]
    assert summary.loc["serial", "ratio"] == 1
    assert summary.loc["dask", "ratio"] == pytest.approx(mine["seconds"][0] / mine["seconds"][1])


def test_executors_are_compared_round_by_round():
    rows = [
        {"round": turn, "executor": name, "token_passes": 100, "seconds": seconds}
        for turn, slower in enumerate((1, 3, 10))
        for name, seconds in (("serial", 10 * slower), ("dask", 5 * slower))
    ]
    summary = scale.executors(pd.DataFrame(rows))
    assert summary["ratio"].tolist() == [1, 2]
    assert summary["rate"].tolist() == pytest.approx([100 / 30, 100 / 15])
    assert scale.executors_table(summary).loc["dask"].tolist() == ["7", "2.00 (2.00 to 2.00)"]


# One command for another machine


@pytest.fixture
def small(smoke_store, tmp_path) -> dict[str, object]:
    """Arguments of a call in this process: the tiny model, its store, one number format, no processes."""
    return {"out": tmp_path / "device", "store": smoke_store, "smoke": True, "dtype": ["float32"]} | {
        "parts": "certify,step,cram,repeat",
        "minutes": 60,
    }


def written(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def test_a_machine_is_measured_in_one_command_and_only_once(smoke_store, tmp_path):
    command = [sys.executable, "-m", "benchmarks.device", "--smoke", "--store", smoke_store, "--out", tmp_path / "out"]

    def call() -> list[str]:
        done = subprocess.run(
            [str(word) for word in command], cwd=HERE.parent, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    said, parts = call(), written(tmp_path / "out")
    names = {"certify-bfloat16", "certify-float32", "cram-float32", "memory-bfloat16", "memory-float32"}
    assert set(parts) == names | {"repeat-float32", "step-bfloat16", "step-float32"}
    assert said[-1] == "finished: 0 parts left, 0 failed"
    stored, here = Store(smoke_store).frame().query("exact"), parts["certify-float32"]
    assert len(here) == len(stored) == here["exact_here"].sum() > 0
    assert here["margin_here"].tolist() == pytest.approx(here["margin"].tolist(), abs=1e-3)
    assert here.set_index("key")["margin"].to_dict() == stored.set_index("key")["margin"].to_dict()
    assert set(parts["certify-bfloat16"]["key"]) == set(here["key"])
    assert (parts["step-bfloat16"]["dtype"] == "bfloat16").all()
    assert set(estimate.step_cost(parts["step-float32"])["tokens"]) == {32}
    assert (parts["memory-float32"]["peak_bytes"] > parts["memory-float32"]["formula_bytes"]).all()
    assert parts["repeat-float32"].groupby("passage")["vector_sha256"].nunique().tolist() == [1, 1]
    assert parts["repeat-float32"]["same_bits"].all()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    again = call()
    assert [line for line in again if "there already" in line] == [
        f"{name}: there already" for name in (line.split(":")[0] for line in said) if name in parts
    ]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")} == before
    log = (tmp_path / "out" / device.LOG).read_text().splitlines()
    assert [line.partition(" ")[2] for line in log] == said + again


def test_new_horizons_stand_beside_the_stores_at_the_same_budget(small, smoke_store):
    device.main(**small | {"parts": "cram"})
    frame = written(small["out"])["cram-float32"].set_index("passage")
    stored = Store(smoke_store).frame().set_index("key")
    assert len(frame) == 2
    for _, row in frame.iterrows():
        theirs = stored.loc[row["stored_key"]]
        assert theirs["passage"] == row.name
        assert (row["budget"], row["stored_budget"]) == (300, 600)
        # The same run on the same machine, so what it had reached is what a run to this budget reaches.
        assert row["stored_horizon"] <= row["horizon"] <= theirs["length"]
        assert row["stored_steps"] == pytest.approx(row["steps"], abs=2)
        assert pd.isna(row["stored_margin"])
    device.main(**small | {"parts": "cram", "token_passes": 600})
    assert written(small["out"])["cram-float32"]["budget"].tolist() == [300, 300]  # a smoke call spends no more


def test_the_stored_run_of_the_same_budget_is_given_as_it_ended(smoke_store):
    rows = Store(smoke_store).frame()
    row = rows[(rows["recipe"] == "horizon") & (rows["kind"] == "horizon") & (rows["n_vectors"] == 1)].iloc[0]
    budget = recipe_of(row).max_token_passes
    found = device.beside(row, rows, budget)
    assert found["stored_key"] == row["key"]
    assert (found["stored_horizon"], found["stored_steps"]) == (row["length"], row["steps"])
    assert found["stored_margin"] == row["margin"]
    assert device.beside(row, rows, 10 * budget)["stored_key"] is None
    assert device.beside(row, rows[rows["seed"] > 0], budget)["stored_key"] is None


def recipe_of(row) -> Recipe:
    return Recipe.model_validate_json(row["recipe_json"])


def test_parts_that_the_time_does_not_reach_are_left(small, capsys):
    device.main(**small | {"minutes": 0})
    said = capsys.readouterr().out
    assert written(small["out"]) == {}
    assert said.count("left for the next call, 0 of ") == 4
    assert said.splitlines()[-1] == "finished: 4 parts left, 0 failed"


@pytest.mark.parametrize("part", ["certify", "step"])
def test_what_a_part_has_done_by_the_end_of_a_call_is_not_done_again(part, small, monkeypatch, capsys):
    name = "certify" if part == "certify" else "rate"
    whole, calls, out = getattr(device, name), [], small["out"]

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == cut:
            monkeypatch.setattr(device.Clock, "left", -1.0)
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(device, name, counted)
    monkeypatch.setattr(device.Clock, "left", 1e6)
    cut = 4
    device.main(**small | {"parts": part})
    done = 3 if part == "certify" else 1  # a step is timed between two looks at the machine
    assert f"{part}-float32: left for the next call, {done} of " in capsys.readouterr().out
    assert written(out) == {}
    cut, first = 0, len(calls)
    monkeypatch.setattr(device.Clock, "left", 1e6)
    device.main(**small | {"parts": part})
    frame = written(out)[f"{part}-float32"]
    each = 1 if part == "certify" else 2
    assert len(calls) - first == each * (len(frame) - done)
    assert not list(out.glob(".*.begun"))
    other = small | {"out": out.with_name("other"), "parts": part}
    device.main(**other)
    same = ["key", "margin_here"] if part == "certify" else ["passages", "tokens", "repeat"]
    again = written(other["out"])[f"{part}-float32"]
    pd.testing.assert_frame_equal(frame[same], again[same])
    assert dict(frame.dtypes) == dict(again.dtypes)


def test_a_repeat_that_is_cut_off_is_no_result(small, monkeypatch, capsys):
    score, steps = engine.score, []

    def slow(*arguments, **options):
        steps.append(1)
        if len(steps) == 5:
            monkeypatch.setattr(device.Clock, "left", -1.0)
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(engine, "score", slow)
    monkeypatch.setattr(device.Clock, "left", 1e6)
    device.main(**small | {"parts": "repeat"})
    assert "repeat-float32: left for the next call, 0 of 1" in capsys.readouterr().out
    assert written(small["out"]) == {}


def test_ctrl_c_of_a_user_ends_the_call(small, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(device, "certify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        device.main(**small)
    assert written(small["out"]) == {}


def test_crams_that_are_cut_off_go_on_with_the_next_call(small, monkeypatch, capsys):
    steps, score = [], engine.score

    def slow(*arguments, **options):
        steps.append(1)
        if len(steps) == 40:
            monkeypatch.setattr(device.Clock, "left", -1.0)
            raise KeyboardInterrupt
        return score(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "score", slow)
        with monkeypatch.context() as clock:
            clock.setattr(device.Clock, "left", 1e6)
            device.main(**small | {"parts": "cram"})
    assert "cram-float32: left for the next call, 0 of 1 done" in capsys.readouterr().out
    assert written(small["out"]) == {}
    monkeypatch.undo()
    taken = []
    monkeypatch.setattr(engine, "score", lambda *a, **k: taken.append(1) or score(*a, **k))
    device.main(**small | {"parts": "cram"})
    cut = written(small["out"])["cram-float32"]
    assert len(taken) < cut["steps"].max()
    whole = small | {"out": small["out"].with_name("whole"), "parts": "cram"}
    device.main(**whole)
    same = ["key", "horizon", "steps", "token_passes", "margin"]
    pd.testing.assert_frame_equal(cut[same], written(whole["out"])["cram-float32"][same])


def test_a_part_that_fails_keeps_no_other_from_its_turn(small, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(device.WORK, "certify", broken)
    with pytest.raises(typer.Exit) as ended:
        device.main(**small | {"parts": "certify,repeat"})
    assert ended.value.exit_code == 1
    assert set(written(small["out"])) == {"repeat-float32"}
    assert "certify-float32: failed (no such kernel)" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"parts": "certify,wurst"}, {"dtype": ["float8"]}])
def test_a_part_or_format_that_does_not_exist_is_refused(small, change):
    with pytest.raises(typer.BadParameter, match="is unknown: use some of"):
        device.main(**small | change)


def test_a_store_that_does_not_exist_is_refused(small, tmp_path):
    with pytest.raises(CrammingError, match=r"store .*nowhere does not exist: name the folder"):
        device.main(**small | {"store": tmp_path / "nowhere"})


@given(limit=st.integers(0, 3000))
def test_the_largest_batch_is_found_to_one_part_in_sixteen(limit):
    tried = []

    def peak(n: int) -> int | None:
        tried.append(n)
        return 10 * n if n <= limit else None

    found, taken = device.largest(peak)
    assert found <= limit <= found + max(1, found // device.NEAR)
    assert taken == 10 * found
    assert len(tried) <= 20


def test_a_batch_that_does_not_fit_in_a_gpu_is_no_error(monkeypatch, tiny_llama):
    def step(lm, passages, tokens, n_vectors):
        def work():
            if passages * tokens > 40:
                raise torch.OutOfMemoryError("out of memory")

        return work

    monkeypatch.setattr(device, "step", step)
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 7)
    assert device.largest(lambda n: device.peak_on_gpu(tiny_llama, n, 8)) == (5, 7)
