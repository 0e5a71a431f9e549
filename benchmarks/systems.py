"""The three systems on the same passages: runs that are missing, what a step costs, and the table of both.

    python benchmarks/systems.py                # the shipped results: seconds, or hours where runs are missing
    python benchmarks/systems.py --measure      # steps timed anew first: ten minutes more

This is what the page *Cost of an exact token* shows, from the shell. Uses a GPU where there is one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from cramming.paths import BENCHMARKS
from cramming.results import estimate, sweep
from cramming.results.store import Store
from cramming.studies import cost


def main() -> None:
    """Run, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scale", default="laptop", help="name of a plan, or path of one")
    options.add_argument("--store", type=Path, help="folder of results; by default that of the scale")
    options.add_argument("--measure", action="store_true", help="time steps anew instead of reading what is shipped")
    asked = options.parse_args()
    where = BENCHMARKS / "step_cost.parquet"
    if asked.measure:
        script = Path(__file__).with_name("step_cost.py")
        subprocess.run([sys.executable, script, "--out", where], check=True)
    results = sweep.results(asked.scale, "cost", store=Store(asked.store) if asked.store else None)
    benchmark = pd.read_parquet(where)
    summary = estimate.systems_summary(estimate.systems(results), estimate.step_cost(benchmark))
    print(cost.systems_table(summary).T.to_string())
    print()
    print(cost.bars(summary, results[results["recipe"] == "horizon"], benchmark).to_string())


if __name__ == "__main__":
    main()
