"""Throughput of Dask against serial, on the same work in stores of their own: token passes a second, as ratios.

    .venv/bin/python benchmarks/executors.py     # 8 minutes on two cores; writes data/benchmarks/executors.parquet

Each round runs both executors one after the other, since the machine's speed changes; workers are started anew each
time, and loading the model is part of what they cost. Serial has as many threads as all workers together.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from cramming import models
from cramming.models import FrozenLM
from cramming.paths import BENCHMARKS
from cramming.results.executors import NAMES, named
from cramming.results.plans import Experiment, Plan
from cramming.results.rows import circumstances
from cramming.results.store import Store
from cramming.results.sweep import sweep
from cramming.studies import scale


def plan(model: str, n: int, steps: int, tokens: int, batch: int) -> Plan:
    """Crams that cannot end before their budget: the same token passes whatever the rounding."""
    blank = {"kind": "cram", "recipe": "best", "changes": {"max_steps": steps, "stop_margin": 1e9}, "source": "random"}
    experiment = Experiment.model_validate(blank | {"n": n, "lengths": [tokens], "batch": batch})
    return Plan(model=model, experiments=(experiment,))


def measure(lm: FrozenLM, wanted: Plan, *, workers: int, threads: int, rounds: int) -> Iterator[dict[str, object]]:
    """Rows of the result: each executor in each round."""
    for turn, name in itertools.product(range(rounds), NAMES):
        with tempfile.TemporaryDirectory() as folder:
            store, began = Store(Path(folder) / name), time.perf_counter()
            executor = named(name, workers=workers, threads=threads) if name != "serial" else name
            sweep(wanted, lm, store, executor=executor, progress=False)
            seconds = time.perf_counter() - began
            rows = store.frame()
        row = {"round": turn, "executor": name, "runs": len(rows), "token_passes": int(rows["token_passes"].sum())}
        yield row | {"seconds": seconds}


def main(
    model: str = "smollm2-135m",
    n: Annotated[int, typer.Option(help="passages")] = 8,
    steps: int = 40,
    tokens: int = 32,
    batch: int = 4,
    workers: int = 2,
    threads: Annotated[int, typer.Option(help="of each worker, and of serial as many as all workers have")] = 1,
    rounds: int = 3,
    out: Path = BENCHMARKS / "executors.parquet",
) -> None:
    """Measure, write, and print token passes a second and the ratio to serial in the same round."""
    torch.set_num_threads(threads * workers)
    lm, wanted, rows = models.load(model), plan(model, n, steps, tokens, batch), []
    about = circumstances(lm) | {"provenance": lm.provenance, "workers": workers, "threads": threads}
    about |= {"batch": batch, "tokens": tokens, "steps": steps}
    for row in measure(lm, wanted, workers=workers, threads=threads, rounds=rounds):
        rows.append(row | about)
        print(f"{row['executor']}: {row['token_passes']:,} token passes in {row['seconds']:.0f} s", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(out, index=False)
    print(scale.executors(pd.DataFrame(rows)).to_string())


if __name__ == "__main__":
    typer.run(main)
