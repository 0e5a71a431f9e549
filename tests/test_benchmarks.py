"""The benchmarks as a user calls them, on the smallest input there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from cramming import tables
from cramming.store import BENCHMARKS

HERE = Path(__file__).resolve().parent.parent / "benchmarks"


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, HERE / script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_systems_are_compared_in_one_command(smoke_store):
    out = run("systems.py", "--scale", "smoke", "--store", smoke_store)
    for name in tables.SYSTEMS.values():
        assert name in out
    assert "at least 128" in out


def test_steps_are_timed_with_the_machine_beside_them(tmp_path):
    out = tmp_path / "steps.parquet"
    run("step_cost.py", "--model", "tiny-llama", "--repeats", 1, "--out", out)
    mine, shipped = pd.read_parquet(out), pd.read_parquet(BENCHMARKS / "step_cost.parquet")
    assert set(mine) == set(shipped)
    assert (mine.dropna(subset="seconds")["matmul_gflops"] > 0).all()
    steps = tables.step_cost(mine)
    shapes = ["what", "passages", "tokens", "n_vectors"]
    assert steps[shapes].to_dict("list") == tables.step_cost(shipped)[shapes].to_dict("list")
    assert steps["share"].between(0, 1).all()
