"""Throughput of each executor against serial, on the same work in stores of its own: token passes a second, as ratios.

Each round runs all executors one after another, since the machine's speed changes; workers are started anew each time,
and loading the model is part of what they cost. Example:

    .venv/bin/python benchmarks/executors.py --model smollm2-135m --workers 2
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from cramming import models
from cramming.executors import named
from cramming.store import Store
from cramming.sweep import Experiment, Plan, sweep


def plan(model: str, n: int, steps: int, tokens: int, batch: int) -> Plan:
    """Crams that cannot end before their budget: the same token passes whatever the rounding."""
    blank = {"kind": "cram", "recipe": "best", "changes": {"max_steps": steps, "stop_margin": 1e9}, "source": "random"}
    experiment = Experiment.model_validate(blank | {"n": n, "lengths": [tokens], "batch": batch})
    return Plan(model=model, experiments=(experiment,))


def main(
    model: str = "tiny-llama",
    n: Annotated[int, typer.Option(help="passages")] = 8,
    steps: int = 100,
    tokens: int = 32,
    batch: int = 4,
    workers: int = 2,
    threads: Annotated[int, typer.Option(help="of each worker, and of serial as many as all workers have")] = 1,
    rounds: int = 1,
    executors: Annotated[str, typer.Option(help="to hold against serial, separated by commas")] = "processes,dask",
) -> None:
    """Print token passes a second and the ratio to serial in the same round."""
    torch.set_num_threads(threads * workers)
    lm, wanted, rows = models.load(model), plan(model, n, steps, tokens, batch), []
    for turn in range(rounds):
        for name in ["serial", *executors.split(",")]:
            with tempfile.TemporaryDirectory() as folder:
                store, began = Store(Path(folder) / name), time.perf_counter()
                executor = named(name, workers=workers, threads=threads) if name != "serial" else "serial"
                sweep(wanted, lm, store, executor=executor, progress=False)
                seconds = time.perf_counter() - began
                passes = int(store.frame()["token_passes"].sum())
            rows.append({"round": turn, "executor": name, "token_passes": passes, "rate": passes / seconds})
    frame = pd.DataFrame(rows)
    serial = frame[frame["executor"] == "serial"].set_index("round")["rate"]
    frame["ratio to serial"] = frame["rate"] / frame["round"].map(serial)
    print(frame.round(2).to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
