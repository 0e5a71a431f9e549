"""What a step costs on this machine, as a share of what its matrix products reach in the same minute.

    python benchmarks/step_cost.py     # about ten minutes on two cores; writes data/benchmarks/step_cost.parquet

Every measurement stands next to one of a large matrix product, since the speed of a shared machine moves. Shapes are
measured in rounds, all of them once a round, so that a slow minute hits them alike. Uses a GPU where there is one.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from cramming.engine import cram, score
from cramming.models import FrozenLM, linear, load
from cramming.paths import BENCHMARKS
from cramming.recipes import recipe
from cramming.results.rows import circumstances
from cramming.texts import passages

# What is measured: name, passages at once, tokens of each, mem vectors of each.
SHAPES = [
    *(("passages", n, 32, 1) for n in (1, 2, 4, 8, 16, 32, 64)),
    *(("tokens", 8, n, 1) for n in (8, 16, 32, 64, 128, 256)),
    *(("vectors", 8, 32, n) for n in (1, 2, 4, 8, 16)),
    # The shapes in which the three systems run: the paper one passage at a time, progressive and ours in batches.
    *(("paper", 1, n, 1) for n in (8, 16, 24, 32)),
    ("progressive", 4, 24, 1),
    ("horizon", 16, 64, 1),
]
LATENCY = ("latency", 1, 32, 1)
MEMORY = ("memory", 16, 64, 1)
PRODUCT = 2048  # rows and columns of the matrices that the machine is judged by
PRODUCT_ON_GPU = 8192  # which smaller ones do not fill


def matmul_parameters(lm: FrozenLM) -> int:
    """Numbers that every position is multiplied by: all but those of the input table, which is looked up."""
    table, head = lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight
    looked_up = 0 if table is head or table.data_ptr() == head.data_ptr() else table.numel()
    return sum(p.numel() for p in lm.model.parameters() if p.ndim == 2) - looked_up


def timed(lm: FrozenLM, work: Callable[[], object]) -> float:
    """Seconds of one call, whatever it leaves running on a GPU included."""
    _wait(lm)
    start = time.perf_counter()
    work()
    _wait(lm)
    return time.perf_counter() - start


def step(lm: FrozenLM, batch: int, length: int, n_vectors: int) -> Callable[[], object]:
    """One forward and backward pass, as the engine does it."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, lm.vocab_size, (batch, length), generator=generator).to(lm.device)
    noise = torch.randn(batch, n_vectors, lm.width, generator=generator) * 1000
    mem = noise.to(lm.device).requires_grad_(True)
    weights = torch.full((batch, length), 1 / length, device=lm.device)

    def work() -> object:
        loss, _, _ = score(lm, mem, tokens, weights)
        return torch.autograd.grad(loss, mem)

    return work


def rate(lm: FrozenLM, seconds: float = 0.3) -> float:
    """GFLOP/s of a large matrix product in the model's number format, best of as many as fit in the time."""
    size = PRODUCT_ON_GPU if lm.device.type == "cuda" else PRODUCT
    a = torch.randn(size, size, device=lm.device).to(lm.dtype)
    end, fastest = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        fastest = min(fastest, timed(lm, lambda: linear(a, a)))
    return 2 * size**3 / fastest / 1e9


def measure(lm: FrozenLM, repeats: int, max_steps: int | None = None) -> Iterator[dict[str, object]]:
    """Rows of the result: each shape in each round, then the time of whole crams, then memory."""
    works = [step(lm, *shape[1:]) for shape in SHAPES]
    works[0]()
    rounds = list(itertools.product(range(repeats), range(len(SHAPES))))
    for repeat, i in tqdm(rounds, desc="steps", unit="step"):
        gflops = rate(lm)
        seconds = timed(lm, works[i])
        # Where a step is longer than the product, the machine may change speed within it: look again.
        yield _row(SHAPES[i], repeat, seconds, (gflops + rate(lm)) / 2)
    some = [
        p
        for source, n in (("novels", 8), ("fresh", 4))
        for p in passages(source, lm.tokenizer, n=n, length=LATENCY[2], seed=2)
    ]
    how = recipe("quick", **({"max_steps": max_steps} if max_steps else {}))
    for repeat, passage in enumerate(tqdm(some, desc="whole crams", unit="passage")):
        before = rate(lm)
        start = time.perf_counter()
        (run,) = cram(lm, [passage], how, progress=False)
        seconds = time.perf_counter() - start
        yield _row(LATENCY, repeat, seconds, before) | {
            "recipe": how.name,
            "source": passage.source,
            "steps": run.steps,
            "solved": run.solved,
        }
    yield _row(MEMORY, 0, float("nan"), float("nan")) | {"peak_bytes": _peak(lm)}


def _row(shape: tuple[str, int, int, int], repeat: int, seconds: float, gflops: float) -> dict[str, object]:
    name, batch, length, n_vectors = shape
    return {
        "what": name,
        "passages": batch,
        "tokens": length,
        "n_vectors": n_vectors,
        "repeat": repeat,
        "seconds": seconds,
        "matmul_gflops": gflops,
    }


def _peak(lm: FrozenLM) -> int:
    """Most memory of a fresh process that does three steps of the batch, weights included, in bytes."""
    command = [sys.executable, __file__, "--model", lm.name, "--dtype", str(lm.dtype).removeprefix("torch."), "--peak"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _peak_here(lm: FrozenLM) -> int:
    work = step(lm, *MEMORY[1:])
    for _ in range(3):
        work()
    if lm.device.type == "cuda":
        return torch.cuda.max_memory_allocated(lm.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _wait(lm: FrozenLM) -> None:
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--max-steps", type=int, help="of a whole cram, in place of the recipe's")
    options.add_argument("--out", type=Path, default=BENCHMARKS / "step_cost.parquet")
    options.add_argument("--peak", action="store_true", help="only print the peak memory of this process, in bytes")
    asked = options.parse_args()
    lm = load(asked.model, dtype=asked.dtype)
    if asked.peak:
        print(_peak_here(lm))
        return
    frame = pd.DataFrame(list(measure(lm, asked.repeats, asked.max_steps))).assign(
        **circumstances(lm), provenance=lm.provenance, matmul_parameters=matmul_parameters(lm)
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(asked.out, index=False)
    print(frame.groupby(["what", "passages", "tokens", "n_vectors"], sort=False)["seconds"].median().to_string())
    print(asked.out.name)


if __name__ == "__main__":
    main()
