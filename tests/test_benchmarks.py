"""The benchmarks as a user calls them, on the smallest input there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cramming.paths import BENCHMARKS
from cramming.results import estimate
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
