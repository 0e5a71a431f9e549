"""What a machine does with the stored runs and with new ones: certificates, steps, crams, repeats, memory.

    python -m benchmarks.device --out DIR              # on a GPU if there is one; 8 minutes, then call it again
    python -m benchmarks.device --out DIR --smoke      # a tiny random model, seconds

Needs no network: on a machine without one, name a folder that `cramming export --join` made as --model. Each part
writes one parquet into DIR for each number format, when it is done. Where the time of a call ends, the next goes on;
what is there with the same setting is not done again. What was done and left stands in DIR/device.log.

certify: every exact run of the store, decoded again here. step: one forward and backward pass by passages and tokens,
beside a matrix product timed with it. repeat: one run three times. memory: what a step takes, beside the formula of
the page on GPUs. cram: horizons of new runs, beside the store's at the same budget; it comes last, since it takes
whatever time it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

import cramming
from benchmarks.step_cost import matmul_parameters, rate, step, timed
from cramming.decode import certify
from cramming.errors import CrammingError, first_line
from cramming.files import atomic
from cramming.horizon import horizon
from cramming.memories import MEMORIES
from cramming.models import DTYPES, SMOLLM2, FrozenLM, load
from cramming.paths import RESULTS
from cramming.recipes import Recipe, recipe
from cramming.results.plans import Experiment, Plan, key_of, offered
from cramming.results.rows import circumstances
from cramming.results.store import Store
from cramming.results.sweep import sweep
from cramming.results.traces import exact_at, exact_curve
from cramming.studies import scale

PARTS = ("certify", "step", "repeat", "memory", "cram")
ALL_FORMATS = ("certify", "step", "memory")  # the others run in the first format that is asked for
LOG, RUNS = "device.log", "runs"  # in the folder: the log, and the store of new runs
REPEATS = 3
SHORT = 2000  # token passes of a run that is repeated, at most
BATCHES, LENGTHS = (1, 4, 16, 64, 256), (32, 128, 512)  # of the steps that are timed
MOST_POSITIONS = {"cuda": 32_768, "cpu": 1024}  # in a timed step; on a processor more would take minutes
FILLED = (32, 128, 512)  # tokens of the passages that a GPU's memory is filled with
CHILDREN = ((1, 32), (4, 64), (16, 64), (16, 128))  # passages and tokens of the processes whose memory is measured
SPARE = 0.25  # share of the free memory that such a process may take by the formula, so that nothing is swapped
SAVE_SECONDS = 30.0  # between two looks of a part that goes on at what it has
NEAR = 16  # the largest batch is found to one part in so many

CODE = [
    *sorted(path for path in Path(cramming.__file__).parent.glob("*.py") if path.name != "cli.py"),
    *(Path(__file__).with_name(name) for name in ("device.py", "step_cost.py")),
]

Rows = list[dict[str, Any]]
Task = Callable[[], Rows]  # a piece of a part: what is done by the time that a call ends is kept, piece by piece


@dataclass(frozen=True)
class Asked:
    """What a call asks for.

    Attributes:
        model: As `cramming.models.load` takes it.
        out: The folder.
        store: Of the runs that are held against this machine.
        sources: Of the passages that are crammed.
        n: Passages of each.
        length: Tokens on offer in each.
        token_passes: Budget of each.
        batch: Passages at once; 0: all on a GPU, 8 on a processor.
        smoke: Whether the model is a tiny one, whose prefixes start at four tokens.
    """

    model: str
    out: Path
    store: Path
    sources: tuple[str, ...]
    n: int
    length: int
    token_passes: int
    batch: int
    smoke: bool = False

    @cached_property
    def digest(self) -> str:
        """Of the model in float32, which the rows of the store name."""
        return load(self.model, dtype="float32").digest

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The store's runs of this model in float32."""
        frame = Store(self.store).frame()
        return frame[(frame["model_digest"] == self.digest) & (frame["dtype"] == "float32")]

    @cached_property
    def exact(self) -> pd.DataFrame:
        """Those of them that are exact."""
        return self.rows[self.rows["exact"]]

    def experiment(self, lm: FrozenLM) -> Experiment:
        """The crams: by the recipe of horizons to the stated budget."""
        growth = {"growth": {"start": 4, "block": 2}} if self.smoke else {}
        return Experiment(
            kind="horizon",
            recipe="horizon",
            changes={"max_token_passes": self.token_passes} | growth,
            source=self.sources,
            n=self.n,
            lengths=(self.length,),
            batch=self.batch or (self.n * len(self.sources) if lm.device.type == "cuda" else 8),
        )


@dataclass
class Clock:
    """The time that a call may take."""

    minutes: float

    def __post_init__(self) -> None:
        self.end = time.monotonic() + 60 * self.minutes

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Do as Ctrl-C does when the time is up: runs under way are kept, and go on with the next call."""

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        if self.left <= 0:
            raise KeyboardInterrupt
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def certify_runs(lm: FrozenLM, asked: Asked) -> list[Task]:
    """Every exact run of the store: whether it is exact on this machine, and by what margin.

    Rows: key, kind, recipe, passage, source, n_vectors, length, margin (as stored, logits), exact_here, margin_here,
    correct_here (tokens before the first error of free decoding).
    """
    vectors = Store(asked.store).vectors()
    return [partial(_certified, lm, row, vectors[row["key"]]) for _, row in asked.exact.iterrows()]


def _certified(lm: FrozenLM, row: pd.Series, mem: torch.Tensor) -> Rows:
    ids, given = row["token_ids"][: row["length"]].tolist(), 0 if row["score_first"] else 1
    here = certify(lm, mem, ids, given=given, memory=MEMORIES[Recipe.model_validate_json(row["recipe_json"]).memory])
    same = ["key", "kind", "recipe", "passage", "source", "n_vectors", "length", "margin"]
    now = {"exact_here": here.exact, "margin_here": here.margin, "correct_here": here.greedy_correct}
    return [row[same].to_dict() | now]


def shapes(lm: FrozenLM, asked: Asked) -> list[tuple[int, int]]:
    """Passages and tokens of the steps that are timed."""
    most = 64 if asked.smoke else MOST_POSITIONS.get(lm.device.type, MOST_POSITIONS["cpu"])
    limit = lm.context_length or most
    return [(n, tokens) for n, tokens in itertools.product(BATCHES, LENGTHS) if n * tokens <= most and tokens < limit]


def time_steps(lm: FrozenLM, asked: Asked) -> list[Task]:
    """One forward and backward pass of each shape in each of a few rounds.

    Rows: the columns of benchmarks/step_cost.py, so that `cramming.results.estimate.step_cost` reads them, and
    positions, token_passes_per_second, share (of the rate of the matrix product). A shape that does not fit in the
    memory has no seconds.
    """
    rounds = itertools.product(range(REPEATS), shapes(lm, asked))
    return [partial(_timed, lm, repeat, *shape) for repeat, shape in rounds]


def _timed(lm: FrozenLM, repeat: int, passages: int, tokens: int) -> Rows:
    work, seconds, gflops = step(lm, passages, tokens, 1), float("nan"), rate(lm, 0.1)
    with contextlib.suppress(torch.OutOfMemoryError):
        work()  # the first of a shape is slower
        seconds = timed(lm, work)
    # Where a step is longer than the product, the machine may change speed within it: look again.
    gflops, positions, parameters = (gflops + rate(lm, 0.1)) / 2, passages * tokens, matmul_parameters(lm)
    return [
        {
            "what": "device",
            "passages": passages,
            "tokens": tokens,
            "n_vectors": 1,
            "repeat": repeat,
            "seconds": seconds,
            "matmul_gflops": gflops,
            "matmul_parameters": parameters,
            "positions": positions,
            "token_passes_per_second": positions / seconds,
            "share": 4 * parameters * positions / seconds / 1e9 / gflops,
        }
    ]


def cram_runs(lm: FrozenLM, asked: Asked) -> list[Task]:
    """New horizons, beside those of the store's runs of the same passages at the same budget.

    The runs are kept in a store of their own, in the folder, so that what one call does not finish goes on in the
    next.

    Rows: key, passage, source, offered, budget, horizon, exact, margin, steps, token_passes, seconds, and the same of
    the store's run: stored_key, stored_budget, stored_horizon and stored_steps (read from its trace at this budget),
    stored_margin (of its kept vector, NaN if its budget was another). Without such a run these are missing.
    """
    return [partial(_crammed, lm, asked)]


def _crammed(lm: FrozenLM, asked: Asked) -> Rows:
    experiment, store = asked.experiment(lm), Store(asked.out / RUNS)
    sweep(Plan(model=asked.model, dtype=_format(lm), experiments=(experiment,)), lm, store, progress=False)
    frame = store.frame().set_index("key", drop=False)
    rows = [frame.loc[key_of(lm, experiment, passage)] for passage in offered(experiment, lm)]
    same = ["key", "passage", "source", "offered", "exact", "margin", "steps", "token_passes", "seconds"]
    return [
        row[same].to_dict()
        | {"budget": asked.token_passes, "horizon": row["length"]}
        | beside(row, asked.rows, asked.token_passes)
        for row in rows
    ]


def beside(run: pd.Series, rows: pd.DataFrame, budget: int) -> dict[str, Any]:
    """What the store's run of the same passage and recipe had reached at a budget, if it has one that went so far."""
    how = _besides_budget(run["recipe_json"])
    same = rows[
        (rows["kind"] == "horizon")
        & (rows["passage_digest"] == run["passage_digest"])
        & (rows["n_vectors"] == run["n_vectors"])
        & (rows["seed"] == run["seed"])
    ]
    for i, row in same.iterrows():
        theirs = Recipe.model_validate_json(row["recipe_json"]).max_token_passes or 0
        if theirs < budget or _besides_budget(row["recipe_json"]) != how:
            continue
        (spent, _), (steps, _) = exact_curve(same.loc[[i]]), exact_curve(same.loc[[i]], "steps")
        end = theirs == budget
        return {
            "stored_key": row["key"],
            "stored_budget": theirs,
            "stored_horizon": int(row["length"] if end else exact_at(same.loc[[i]], budget)[0]),
            "stored_steps": float(row["steps"] if end else np.interp(budget, spent, steps)),
            "stored_margin": float(row["margin"]) if end else float("nan"),
        }
    missing = dict.fromkeys(("stored_horizon", "stored_steps", "stored_margin"), float("nan"))
    return {"stored_key": None, "stored_budget": float("nan"), **missing}


def _besides_budget(recipe_json: str) -> dict[str, object]:
    return {
        name: value
        for name, value in Recipe.model_validate_json(recipe_json).deciding().items()
        if name != "max_token_passes"
    }


def repeat_run(lm: FrozenLM, asked: Asked) -> list[Task]:
    """One short run of two passages three times over.

    Rows: repeat, passage, steps, horizon, vector_sha256, same_bits (as of the first time), largest_difference (between
    the numbers of the two vectors), same_steps (whether the losses of all steps are the same).
    """
    return [partial(_repeated, lm, asked)]


def _repeated(lm: FrozenLM, asked: Asked) -> Rows:
    experiment = asked.experiment(lm).model_copy(update={"n": 2, "source": asked.sources[0]})
    how = recipe("horizon", **experiment.changes | {"max_token_passes": min(SHORT, asked.token_passes)})
    times = [horizon(lm, offered(experiment, lm), how, batch=2, progress=False) for _ in range(REPEATS)]
    if any(found.run.ended == "interrupted" for runs in times for found in runs):  # which is no error there
        raise KeyboardInterrupt
    rows: Rows = []
    for repeat, runs in enumerate(times):
        for one, other in zip((found.run for found in times[0]), (found.run for found in runs), strict=True):
            rows.append(
                {
                    "repeat": repeat,
                    "passage": other.passage.id,
                    "steps": other.steps,
                    "horizon": other.length,
                    "vector_sha256": hashlib.sha256(other.mem.numpy().tobytes()).hexdigest(),
                    "same_bits": torch.equal(other.mem, one.mem),
                    "largest_difference": float((other.mem - one.mem).abs().max()),
                    "same_steps": [row.loss for row in other.trace] == [row.loss for row in one.trace],
                }
            )
    return rows


def fill_memory(lm: FrozenLM, asked: Asked) -> list[Task]:
    """What steps take of the memory, beside the formula of the page on GPUs.

    On a GPU the largest batch that fits, by tokens. On a processor nothing is filled: the peak of a process of its own
    at a few sizes, of which the first is nearly all Python, libraries and loading.

    Rows: passages, tokens, peak_bytes, formula_bytes (of a step of that size), device_bytes (what there is),
    formula_passages (the most that fit there by the formula), filled (whether passages is the most that fit).
    """
    if lm.device.type == "cuda":
        return [partial(_filled, lm, tokens) for tokens in FILLED if tokens < (lm.context_length or tokens + 1)]
    some = CHILDREN[:1] if asked.smoke else CHILDREN
    return [partial(_in_a_child, lm, asked.model, passages, tokens) for passages, tokens in some]


def _filled(lm: FrozenLM, tokens: int) -> Rows:
    passages, peak = largest(lambda n: peak_on_gpu(lm, n, tokens))
    return [_memory_row(lm, passages, tokens, peak, torch.cuda.mem_get_info(lm.device)[1]) | {"filled": True}]


def _in_a_child(lm: FrozenLM, model: str, passages: int, tokens: int) -> Rows:
    there = free_memory()
    if formula(lm, passages, tokens) > SPARE * there:
        return []
    return [_memory_row(lm, passages, tokens, _peak(model, lm, passages, tokens), there) | {"filled": False}]


def _memory_row(lm: FrozenLM, passages: int, tokens: int, peak: int, there: int) -> dict[str, Any]:
    by_formula, _ = largest(lambda n: 1 if formula(lm, n, tokens) <= there else None)
    return {
        "passages": passages,
        "tokens": tokens,
        "peak_bytes": peak,
        "formula_bytes": formula(lm, passages, tokens),
        "device_bytes": there,
        "formula_passages": by_formula,
    }


def formula(lm: FrozenLM, passages: int, tokens: int) -> float:
    """Bytes of a step, see `cramming.studies.scale.memory`."""
    parts = scale.memory(scale.shape_of(lm), passages=passages, length=tokens, dtype=_format(lm))
    return scale.at_once(parts)


def largest(peak: Callable[[int], int | None]) -> tuple[int, int]:
    """The largest number for which there is a peak, to one part in `NEAR`, and that peak; (0, 0) if there is none.

    Examples:
        >>> largest(lambda n: 10 * n if n <= 100 else None)
        (100, 1000)
    """
    best, found, beyond = 0, 0, 1
    while (taken := peak(beyond)) is not None:
        best, found, beyond = beyond, taken, 2 * beyond
    while beyond - best > max(1, best // NEAR):
        middle = (best + beyond) // 2
        if (taken := peak(middle)) is None:
            beyond = middle
        else:
            best, found = middle, taken
    return best, found


def peak_on_gpu(lm: FrozenLM, passages: int, tokens: int) -> int | None:
    """Most bytes that a step takes, weights included; None if they are not there."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(lm.device)
    try:
        step(lm, passages, tokens, 1)()
        torch.cuda.synchronize(lm.device)
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated(lm.device)


def free_memory() -> int:
    """Bytes that a new process may take without anything being swapped."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _peak(model: str, lm: FrozenLM, passages: int, tokens: int) -> int:
    """Most memory of a fresh process that does three steps of a size."""
    command = [sys.executable, "-m", "benchmarks.device", "--model", model, "--dtype", _format(lm)]
    size = ["--peak", f"{passages}x{tokens}", "--out", os.devnull]
    return int(subprocess.run([*command, *size], check=True, capture_output=True, text=True).stdout.split()[-1])


def _peak_here(model: str, dtype: str, passages: int, tokens: int) -> int:
    work = step(load(model, device="cpu", dtype=dtype), passages, tokens, 1)
    for _ in range(3):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


WORK: dict[str, Callable[[FrozenLM, Asked], list[Task]]] = {
    "certify": certify_runs,
    "step": time_steps,
    "repeat": repeat_run,
    "memory": fill_memory,
    "cram": cram_runs,
}


def setting(part: str, lm: FrozenLM, asked: Asked) -> dict[str, Any]:
    """What a part's file is of. A file of another setting is written anew."""
    about: dict[str, Any] = {name: value for name, value in circumstances(lm).items() if name != "model"}
    about["code"] = hashlib.sha256(b"".join(path.read_bytes() for path in CODE)).hexdigest()[:16]
    if part in ("cram", "repeat"):
        about |= {name: value for name, value in asdict(asked).items() if name not in ("model", "out", "store")}
    if part in ("certify", "cram"):
        about["stored"] = hashlib.sha256("".join(sorted(asked.rows["key"])).encode()).hexdigest()[:16]
    return json.loads(json.dumps({"part": part, "smoke": asked.smoke} | about))


def read(path: Path, wanted: Mapping[str, Any]) -> pd.DataFrame | None:
    """A part's file, if it is there, whole and of this setting."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError):
        return None
    return frame if frame.attrs.get("setting") == wanted else None


def write(path: Path, rows: Rows, about: Mapping[str, Any], **more: Any) -> pd.DataFrame:
    """Write a part's file, whole or not at all."""
    frame = pd.DataFrame(rows).assign(**about)
    frame.attrs.update(more)
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    atomic(path, sink.getvalue())
    return frame


def driver() -> str:
    """Versions of the GPU's driver and of CUDA; empty without a GPU."""
    if not torch.cuda.is_available():
        return ""
    said = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    return f"driver {said or 'unknown'}, CUDA {torch.version.cuda}"


def _format(lm: FrozenLM) -> str:
    return str(lm.dtype).removeprefix("torch.")


class Bench:
    """A call: the parts one after the other, each written when it is done, or left for the next call."""

    def __init__(self, asked: Asked, clock: Clock) -> None:
        self.asked, self.clock = asked, clock
        self.left = self.failed = 0
        asked.out.mkdir(parents=True, exist_ok=True)

    def log(self, line: str) -> None:
        """One line more in the log, and on the screen."""
        print(line, flush=True)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with (self.asked.out / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{now} {line}\n")

    def run(self, parts: Sequence[str], dtype: str) -> None:
        """Do parts in a number format."""
        lm = load(self.asked.model, dtype=dtype)
        on = ", ".join(filter(None, (str(circumstances(lm)["device"]), driver())))
        self.log(f"{lm.name} {lm.digest}, {dtype}, {on}, {circumstances(lm)['versions']}")
        for part in parts:
            name = f"{part}-{dtype}"
            try:
                self._do(part, name, lm)
            except Exception as error:  # one part that fails keeps no other from its turn
                self.failed += 1
                self.log(f"{name}: failed ({first_line(error)})")
                if not isinstance(error, CrammingError):
                    self.log(traceback.format_exc().strip())

    def _do(self, part: str, name: str, lm: FrozenLM) -> None:
        target, wanted = self.asked.out / f"{name}.parquet", setting(part, lm, self.asked)
        begun = self.asked.out / f".{name}.begun"
        if read(target, wanted) is not None:
            self.log(f"{name}: there already")
            return
        about = {**circumstances(lm), "driver": driver(), "provenance": lm.provenance}
        before = read(begun, wanted)
        rows: Rows = [] if before is None else before.drop(columns=list(about)).to_dict("records")  # type: ignore[assignment]
        count, began = 0 if before is None else int(before.attrs["tasks"]), time.monotonic()
        tasks, saved = WORK[part](lm, self.asked), began
        try:
            with self.clock.running():
                for task in tasks[count:]:
                    rows += task()
                    count += 1
                    if time.monotonic() - saved > SAVE_SECONDS:
                        write(begun, rows, about, setting=wanted, tasks=count)
                        saved = time.monotonic()
        except KeyboardInterrupt:
            if rows:
                write(begun, rows, about, setting=wanted, tasks=count)
            if self.clock.left > 0:  # somebody else's
                raise
            self.left += 1
            self.log(f"{name}: left for the next call, {count} of {len(tasks)} done in {self.clock.minutes:g} minutes")
            return
        frame = write(target, rows, about, setting=wanted)
        begun.unlink(missing_ok=True)
        self.log(f"{name}: {summary(part, frame)}; {time.monotonic() - began:.0f} s")


def summary(part: str, frame: pd.DataFrame) -> str:
    """What a part found, in a line."""
    if frame.empty:
        return "the store has no exact run of this model" if part == "certify" else "nothing that fits"
    if part == "certify":
        return f"{frame['exact_here'].sum()} of {len(frame)} exact runs of the store are exact here"
    if part == "step":
        best = frame.loc[frame["token_passes_per_second"].idxmax()]
        return (
            f"up to {best['token_passes_per_second']:,.0f} token passes a second, {best['share']:.0%} of the matrix "
            f"product's rate, at {best['passages']} passages of {best['tokens']} tokens"
        )
    if part == "cram":
        both = frame.dropna(subset="stored_horizon")
        stored = f", {both['stored_horizon'].mean():.1f} of {len(both)} in the store" if len(both) else ""
        return f"horizons of {len(frame)} passages at {frame['budget'].max():,} token passes: mean " + (
            f"{frame['horizon'].mean():.1f}{stored}, {frame['exact'].sum()} exact"
        )
    if part == "repeat":
        return "bit-equal" if frame["same_bits"].all() else f"off by {frame['largest_difference'].max():.2g} at most"
    ratio = frame["peak_bytes"] / frame["formula_bytes"]
    return f"{len(frame)} sizes, peak {ratio.min():.2f} to {ratio.max():.2f} times the formula"


def main(
    out: Annotated[Path, typer.Option(help="folder of the files")],
    model: Annotated[str, typer.Option(help="as cramming takes it, such as a folder")] = SMOLLM2,
    dtype: Annotated[list[str] | None, typer.Option(help="number formats; again for more")] = None,
    parts: Annotated[str, typer.Option(help="which, in this order, but for cram")] = ",".join(PARTS),
    minutes: Annotated[float, typer.Option(min=0, help="that the call may take")] = 8,
    store: Annotated[Path, typer.Option(help="of the runs to compare with")] = RESULTS / "laptop",
    sources: Annotated[str, typer.Option(help="of the passages to cram, with commas between")] = "novels",
    n: Annotated[int, typer.Option(min=2, help="passages of each")] = 16,
    length: Annotated[int, typer.Option(min=1, help="tokens on offer in each")] = 512,
    token_passes: Annotated[int, typer.Option(min=1, help="budget of each")] = 40_000,
    batch: Annotated[int, typer.Option(min=0, help="passages at once; 0: all on a GPU, 8 on a processor")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="a tiny random model and little of everything")] = False,
    peak: Annotated[str, typer.Option(hidden=True, help="PxT: only print the peak memory of this process")] = "",
) -> None:
    """Measure what is not measured yet, write, and say what was found and what is left."""
    formats = tuple(dtype or ("float32", "bfloat16"))
    if unknown := [name for name in formats if name not in DTYPES]:
        raise typer.BadParameter(f"dtype {unknown[0]!r} is unknown: use some of {', '.join(DTYPES)}")
    wanted = parts.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        raise typer.BadParameter(f"part {unknown[0]!r} is unknown: use some of {', '.join(PARTS)}")
    if peak:
        print(_peak_here(model, formats[0], *map(int, peak.split("x"))))
        return
    if not store.is_dir():
        raise CrammingError(f"store {store} does not exist: name the folder of a sweep's results")
    if smoke:
        model = "tiny-llama" if model == SMOLLM2 else model
        n, length, token_passes = min(n, 2), min(length, 24), min(token_passes, 300)
    asked = Asked(model, out, store, tuple(sources.split(",")), n, length, token_passes, batch, smoke)
    bench = Bench(asked, Clock(minutes))
    for i, name in enumerate(formats):
        some = [part for part in wanted if part != "cram" and (i == 0 or part in ALL_FORMATS)]
        if some:
            bench.run(some, name)
    if "cram" in wanted:
        bench.run(["cram"], formats[0])
    bench.log(f"finished: {bench.left} parts left, {bench.failed} failed")
    if bench.failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except CrammingError as error:
        sys.exit(f"device: {error}")
