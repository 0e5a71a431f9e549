"""Sweeps: a plan of runs, minus what the store holds, run here or in workers and stored one by one."""

from __future__ import annotations

import contextlib
import math
import platform
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cramming import __version__
from cramming.decode import Certificate, certify, without_mem
from cramming.engine import NUMBERS, Cram, State, Step, cram, progress_bar
from cramming.errors import CrammingError
from cramming.executors import Executor, named
from cramming.files import inside, read_yaml
from cramming.horizon import Horizon, horizon
from cramming.memories import MEMORIES
from cramming.models import FrozenLM, load, parameter_count
from cramming.recipes import MemoryName, Recipe, recipe
from cramming.store import BENCHMARKS, RESULTS, Damaged, Store, run_key
from cramming.texts import Passage, from_tokens, passages

WAIT_SECONDS = 1.0  # between two looks at what another sweep is at
PLANS = Path(__file__).resolve().parent.parent / "data" / "plans"
LOG = "sweep.log"  # in the store's folder: what was done when, for people


class Experiment(BaseModel):
    """Passages of one source, or of several, under one recipe: one entry of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cram", "horizon"]
    recipe: str
    changes: dict[str, Any] = Field(default_factory=dict, description="fields of the recipe that differ")
    source: str | tuple[str, ...]
    n: int = Field(ge=1, description="passages of each source")
    skip: int = Field(0, ge=0, description="passages of each source to pass over, such as those that others report")
    lengths: tuple[int, ...] = Field(min_length=1, description="tokens of a passage; for a horizon, tokens on offer")
    n_vectors: int = Field(1, ge=1, description="mem vectors, or parts of what else the recipe trains")
    offset: int = Field(0, ge=0, description="tokens at the head of each text to pass over, so that some precede")
    seed: int = Field(
        0, description="of the noise that mem starts from, and unless text_seed is given of the passages"
    )
    text_seed: int | None = Field(
        None, description="which passages, where the same ones are crammed from several seeds"
    )
    path: bool = Field(False, description="keep the vectors on the way too, for `Store.paths`")
    batch: int = Field(4, ge=1)
    models: tuple[str, ...] = Field((), description="models of the plan that it is for, by name; none: all")
    pages: tuple[str, ...] = Field((), description="notebooks that show it, or parts of them, by name; none: all")

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, however many."""
        return (self.source,) if isinstance(self.source, str) else self.source

    def resolved(self) -> Recipe:
        """The recipe with its changes.

        Raises:
            CrammingError: If the recipe refuses a change, or its growth does not go with the kind.
        """
        how = recipe(self.recipe, **self.changes)
        if (how.growth is not None) != (self.kind == "horizon"):
            raise CrammingError(
                f"kind {self.kind!r} and recipe {how.name!r} do not go together: "
                "a horizon needs a recipe with growth, such as horizon, and a cram one without, such as best"
            )
        return how


class Plan(BaseModel):
    """One or more models and the experiments to run on each; one file under data/plans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | tuple[str, ...]
    dtype: str = "float32"
    experiments: tuple[Experiment, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, however many."""
        return (self.model,) if isinstance(self.model, str) else self.model

    def on(self, model: str) -> tuple[Experiment, ...]:
        """The experiments for a model, by its name."""
        return tuple(e for e in self.experiments if not e.models or model in e.models)

    def of(self, page: str | None) -> Plan:
        """The part of the plan that a page shows; without a page, all of it.

        Raises:
            CrammingError: If the plan has nothing for that page.
        """
        some = tuple(e for e in self.experiments if page is None or not e.pages or page in e.pages)
        if not some:
            known = ", ".join(sorted({name for e in self.experiments for name in e.pages}))
            raise CrammingError(f"the plan has nothing for page {page!r}: it has some for {known}")
        return self.model_copy(update={"experiments": some})


def load_plan(scale: str) -> Plan:
    """The plan of a scale (smoke, laptop, paper), or of any YAML file.

    Raises:
        CrammingError: If there is no such plan, or it does not say what a plan must.
    """
    path = Path(scale) if scale.endswith((".yaml", ".yml")) else PLANS / f"{scale}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PLANS.glob("*.yaml")))
        raise CrammingError(f"scale {scale!r} has no plan: use one of {known}, or the path of a YAML file")
    plan = read_yaml(path, "the plan is not valid, see data/plans for ones that are")
    try:
        found = Plan.model_validate(plan)
    except (ValidationError, RecursionError) as error:
        raise CrammingError(f"plan {path.name} is not valid: {' '.join(str(error).split())[:1000]}") from error
    for name in found.models:
        _stays(name, f"plan {path.name}")
    return found


def _stays(model: str, where: str) -> None:
    """Refuse a model that a file names by a path out of the present folder."""
    if not inside(model):
        raise CrammingError(
            f"{where} names the model {model[:80]!r}, a path out of this folder: put the model, or a link to it, here"
        )


def store_of(scale: str) -> Store:
    """The store that a scale, or a plan of one's own, reads and writes unless told otherwise: data/results/<name>.

    The environment variable CRAMMING_RESULTS names another folder for data/results.
    """
    return Store(RESULTS / Path(scale).stem)


def key_of(lm: FrozenLM, experiment: Experiment, passage: Passage) -> str:
    """The key of one run: everything that decides its result, and nothing that does not (batch, threads, machine)."""
    return run_key(
        {
            "kind": experiment.kind,
            "recipe": experiment.resolved().deciding(),
            "model_digest": lm.digest,
            "passage": passage.id,
            "passage_digest": passage.digest,
            "n_vectors": experiment.n_vectors,
            "seed": experiment.seed,
            "dtype": str(lm.dtype).removeprefix("torch."),
            **({"path": True} if experiment.path else {}),  # no result of its own, but a run without it lacks it
        }
    )


def offered(experiment: Experiment, lm: FrozenLM) -> list[Passage]:
    """The passages of an experiment, of every length it asks for."""
    return [
        passage
        for length in experiment.lengths
        for source in experiment.sources
        for passage in passages(
            source,
            lm.tokenizer,
            n=experiment.skip + experiment.n,
            length=length,
            seed=experiment.seed if experiment.text_seed is None else experiment.text_seed,
            offset=experiment.offset,
        )[experiment.skip :]
    ]


def pending(
    plan: Plan, lm: FrozenLM, store: Store, part: tuple[int, int] = (0, 1)
) -> list[tuple[Experiment, list[Passage]]]:
    """The plan minus the store: for each experiment the passages still to run, none of them twice.

    Shares are cut from the whole plan, not from what is left of it: processes that start at different times see
    different remainders, and would overlap.
    """
    done, seen, work = store.keys(), set[str](), []
    for experiment in plan.on(lm.name):
        runs = {
            key: passage for passage in offered(experiment, lm) if (key := key_of(lm, experiment, passage)) not in seen
        }
        seen |= set(runs)
        left = [passage for key, passage in list(runs.items())[part[0] :: part[1]] if key not in done]
        if left:
            work.append((experiment, left))
    return work


# Operations a second that a large GPU sustains in bfloat16: about a third of the 312e12 an A100 is sold with. Assumed.
GPU_RATE = 1e14


def most_passes(experiment: Experiment, length: int) -> float:
    """Token passes that one run of an experiment can take at most, from its budget; infinite if it has none."""
    how = experiment.resolved()
    # With growth that many positions only at the end.
    positions = MEMORIES[how.memory].positions(experiment.n_vectors, length)
    return min((how.max_steps or math.inf) * positions, (how.max_token_passes or math.inf) + positions)


def estimate(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """The most that a plan can cost, from its budgets: nothing is run.

    A step takes 2 operations a parameter and token forward, and 2 backward, since the weights themselves get no
    gradient. Runs that are solved before their budget ends cost less; most do.

    Args:
        plan: What is wanted.
        store: Where results are looked up. Costs are then of what is pending only. Without one, or where it holds no
            runs of a model, the weights of the paper's models are not fetched.

    Returns:
        One row a model, recipe, text and number of vectors: model, recipe, source, n_vectors, runs, stored, pending,
        unfinished (those of the pending with a checkpoint), tokens (of the pending passages), token_passes and
        operations (of the pending, at most), gpu_hours (operations at `GPU_RATE`).

    Raises:
        CrammingError: If a model is unknown, or the weights of one that has runs in the store cannot be had.
    """
    rows, stored = [], store.keys() if store else set[str]()
    models = set(store.frame()["model"]) if store else set[str]()
    started = {path.stem for path in (store.root / "unfinished").glob("*.safetensors")} if store else set[str]()
    for name in plan.models:
        parameters, seen = parameter_count(name), set[object]()
        lm = load(name, dtype=plan.dtype) if started or models & _names(name) else None
        for experiment in plan.on(lm.name if lm else name):
            how = experiment.resolved()
            most = {length: most_passes(experiment, length) for length in experiment.lengths}
            for length, run in _wanted(experiment, lm):
                if run in seen:
                    continue
                seen.add(run)
                left = run not in stored
                rows.append(
                    {
                        "model": name,
                        "recipe": how.name,
                        "source": ", ".join(experiment.sources),
                        "n_vectors": experiment.n_vectors,
                        "runs": 1,
                        "stored": int(not left),
                        "unfinished": int(left and str(run)[:16] in started),
                        "pending": int(left),
                        "tokens": length * left,
                        "token_passes": most[length] if left else 0,
                        "operations": 4 * parameters * most[length] if left else 0,
                    }
                )
    frame = pd.DataFrame(rows)
    by = ["model", "recipe", "source", "n_vectors"]
    frame = frame.groupby(by, as_index=False, sort=False).sum()
    return frame.assign(gpu_hours=frame["operations"] / GPU_RATE / 3600)


def _wanted(experiment: Experiment, lm: FrozenLM | None) -> list[tuple[int, object]]:
    """Length and identity of each run of an experiment: its key, or without a model what comes to the same."""
    slots = [
        (length, source, i)
        for length in experiment.lengths
        for source in experiment.sources
        for i in range(experiment.skip, experiment.skip + experiment.n)
    ]
    if lm is not None:
        keys = [key_of(lm, experiment, passage) for passage in offered(experiment, lm)]
        return [(length, key) for (length, *_), key in zip(slots, keys, strict=True)]
    texts = experiment.seed if experiment.text_seed is None else experiment.text_seed
    how = run_key(
        {
            "recipe": experiment.resolved().deciding(),
            **experiment.model_dump(include={"kind", "n_vectors", "seed", "offset", "path"}),
            "texts": texts,
        }
    )
    return [(length, (how, length, source, i)) for length, source, i in slots]


def _names(model: str) -> set[str]:
    """What a model may go by in the store: a local folder or GGUF file goes by less than what loads it."""
    return {model, Path(model).name, Path(model).stem}


def rates(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """Operations a second by device, to turn those of `estimate` into hours.

    Returns:
        One row a device: device, rate, known (assumed, measured by benchmarks/step_cost.py, or from the store's runs
        of the plan's models, by the wall clock).
    """
    rows = [("large GPU", GPU_RATE, "assumed")]
    steps = pd.read_parquet(BENCHMARKS / "step_cost.parquet").query("what in ('passages', 'tokens', 'vectors')")
    fed = steps["passages"] * (steps["tokens"] - 1 + steps["n_vectors"])
    measured = 4 * steps["matmul_parameters"] * fed / steps["seconds"]
    device = f"{steps['device'].iloc[0]}, {steps['threads'].iloc[0]} threads"
    rows.append((device, float(measured.median()), f"measured, {steps['model'].iloc[0]}"))
    frame = store.frame() if store else pd.DataFrame({"model": []})
    for name in plan.models:
        for (device, threads), some in frame[frame["model"].isin(_names(name))].groupby(["device", "threads"]):
            rate = 4 * parameter_count(name) * some["token_passes"].sum() / some["seconds"].sum()
            rows.append((f"{device}, {threads} threads", rate, f"the store's {len(some)} runs of {name}"))
    return pd.DataFrame(rows, columns=["device", "rate", "known"])


def state_of(store: Store) -> str:
    """What a store holds before a sweep, in a line: runs, checkpoints, and shards that were set aside."""
    unfinished = len(list((store.root / "unfinished").glob("*.safetensors")))
    aside = [path for path in store.root.glob("*/*.parquet*") if path.parent.name != "unfinished"]
    return (
        f"{store.root}: {len(store.keys()):,} runs stored, {unfinished:,} with a checkpoint, "
        f"{len(aside):,} shards set aside"
    )


def sweep(
    plan: Plan,
    lm: FrozenLM,
    store: Store,
    *,
    part: tuple[int, int] = (0, 1),
    executor: str | Executor = "serial",
    resume: bool = True,
    progress: bool = True,
) -> int:
    """Run what is pending and store each run as it ends.

    In this process (``serial``), a finished passage of an experiment makes room for its next one, and each run is
    stored at once. Workers run a batch at a time, and its runs are stored by this process when all of it is done. Keys
    are the same, and results too, up to the rounding that comes with other company in a batch; where batches hold the
    same passages, vectors are equal bit for bit.

    Damaged files of the store are set aside first, see `Store.repair`. Runs that another sweep of the store is at are
    left to it, and waited for at the end.

    Args:
        plan: What is wanted.
        lm: The plan's model.
        store: Where results go and are looked up.
        part: (i, n) runs the i-th of n shares of the work, so that n processes can share a plan.
        executor: ``serial``, ``processes``, ``dask``, or an executor such as `cramming.executors.Processes`.
        resume: Whether to go on from the checkpoints of runs that were interrupted.
        progress: Whether to show bars.

    Returns:
        How many runs were stored. Ctrl-C raises KeyboardInterrupt; what was stored stays.

    Raises:
        CrammingError: If the plan or the executor cannot be carried out, or a run cost two workers their lives.
    """
    workers = named(executor) if isinstance(executor, str) else executor
    stored = 0

    def keep(experiment: Experiment, row: dict[str, Any], mem: torch.Tensor, path: torch.Tensor | None) -> None:
        nonlocal stored
        store.add(row, mem, path=path)
        stored += 1
        _log(store, _line(experiment, row))

    def mine(work: Work) -> int:
        """Run what no other sweep is at; how many runs were left to others."""
        if workers is None:
            elsewhere = 0
            for experiment, some in prioritised(work):
                with _claimed(lm, store, [(experiment, some)]) as (taken, others):
                    elsewhere += others
                    unfinished = _Unfinished(lm, experiment, store, resume=resume)
                    for _, free in taken:
                        _run(lm, experiment, free, keep, unfinished, progress=progress)
            return elsewhere
        with _claimed(lm, store, work) as (taken, elsewhere):
            if taken:
                _in_workers(workers, _jobs(plan, lm, store, taken, workers, resume), keep, progress=progress)
        return elsewhere

    store.repair()
    if not (work := pending(plan, lm, store, part)):
        return 0
    store.prepare()
    runs = sum(len(some) for _, some in work)
    _log(store, f"started: {runs} runs pending on {lm.name}, executor {workers or 'serial'}")
    try:
        waited = False
        while work:
            before = stored
            if not (elsewhere := mine(work)):
                break
            if stored == before:
                if not waited:
                    waiting = f"waiting for {elsewhere} runs that another sweep of {store.root} is at"
                    print(f"cramming: {waiting}", file=sys.stderr)
                waited = True
                time.sleep(WAIT_SECONDS)
            work = pending(plan, lm, store, part)
    except KeyboardInterrupt:
        _log(store, f"interrupted: {stored} of {runs} runs stored")
        raise
    except CrammingError as error:
        _log(store, f"failed: {stored} of {runs} runs stored: {error}")
        raise
    _log(store, f"finished: {stored} of {runs} runs stored")
    return stored


Work = Sequence[tuple[Experiment, list[Passage]]]


@contextlib.contextmanager
def _claimed(lm: FrozenLM, store: Store, work: Work) -> Iterator[tuple[list[tuple[Experiment, list[Passage]]], int]]:
    """The part of the work that this process may run until the block ends, and how many runs are left to others."""
    runs = [(experiment, {key_of(lm, experiment, passage): passage for passage in some}) for experiment, some in work]
    keys = {key for _, some in runs for key in some}
    with store.claim(keys) as mine:
        free = [(experiment, [some[key] for key in some if key in mine]) for experiment, some in runs]
        yield [(experiment, some) for experiment, some in free if some], len(keys) - len(mine)


def prioritised(work: Sequence[tuple[Experiment, list[Passage]]]) -> list[tuple[Experiment, list[Passage]]]:
    """The same work in the order in which figures fill in evenly: first the cheapest of each page, and so on.

    What several pages show counts for each, what all pages show as a page of its own. What costs the same stays in the
    order of the plan.
    """
    cost = [sum(most_passes(experiment, len(passage)) for passage in some) for experiment, some in work]
    turns, turn = dict[str, int](), dict[int, int]()
    for i in sorted(range(len(work)), key=cost.__getitem__):
        pages = work[i][0].pages or ("",)
        turn[i] = min(turns.get(page, 0) for page in pages)
        for page in pages:
            turns[page] = turns.get(page, 0) + 1
    return [work[i] for i in sorted(turn, key=lambda i: (turn[i], cost[i], i))]


# A row, its vectors and those on the way, as arrays, which travel between machines better than tensors do.
Done = tuple[dict[str, Any], np.ndarray, np.ndarray | None]
_Keep = Callable[[Experiment, dict[str, Any], torch.Tensor, torch.Tensor | None], None]


@dataclass(frozen=True)
class Job:
    """One batch of passages of an experiment, with all that a worker needs to run it.

    Attributes:
        model: What the worker calls the model when it loads it.
        digest: Of its weights.
        dtype: Their number format.
        device: As `cramming.models.load` takes it.
        threads: Of the worker; None: as it has them.
        experiment: How.
        passages: Without their tokenizer, which the worker has from the model.
        folder: The store, for checkpoints; a worker that does not see that folder writes none.
        resume: Whether to go on from checkpoints there.
    """

    model: str
    digest: str
    dtype: str
    device: str
    threads: int | None
    experiment: Experiment
    passages: tuple[Passage, ...]
    folder: str
    resume: bool = True

    def __str__(self) -> str:
        first, others = self.passages[0], len(self.passages) - 1
        return (
            f"{self.experiment.kind} of {first.id}, {len(first)} tokens, "
            f"{f'and {others} more ' if others else ''}with recipe {self.experiment.recipe} on {self.model}"
        )


def run_job(job: Job) -> list[Done]:
    """Run a batch in this process: what workers do. The model stays loaded for the next job.

    Raises:
        CrammingError: If the model here has other weights, or cannot be had, or the batch cannot be run.
    """
    with _ONE_AT_A_TIME:  # a Dask worker may have several threads, but torch has one number of them for all
        if job.threads:
            torch.set_num_threads(job.threads)
        lm = _loaded(job.model, job.dtype, job.device)
        if lm.digest != job.digest:
            raise CrammingError(
                f"{job.model} is {lm.digest} in a worker and {job.digest} in the sweep: give both the same weights"
            )
        done: list[Done] = []

        def keep(_: Experiment, row: dict[str, Any], mem: torch.Tensor, path: torch.Tensor | None) -> None:
            done.append((row, mem.numpy(), None if path is None else path.numpy()))

        store = Store(job.folder)
        unfinished = _Unfinished(lm, job.experiment, store, resume=job.resume) if store.root.is_dir() else None
        some = [replace(passage, tokenizer=lm.tokenizer) for passage in job.passages]
        _run(lm, job.experiment, some, keep, unfinished, progress=False)
        return done


_ONE_AT_A_TIME = threading.Lock()


@cache
def _loaded(model: str, dtype: str, device: str) -> FrozenLM:
    return load(model, dtype=dtype, device=device)


def _run(
    lm: FrozenLM,
    experiment: Experiment,
    some: list[Passage],
    keep: _Keep,
    unfinished: _Unfinished | None,
    *,
    progress: bool,
) -> None:
    """Run passages of an experiment, and hand over each as it ends."""
    kept = 0

    def finish(result: Cram | Horizon) -> None:
        nonlocal kept
        run = result.run if isinstance(result, Horizon) else result
        keep(experiment, *row_of(lm, experiment, result), run.path)
        kept += 1

    run: Callable[..., object] = cram if experiment.kind == "cram" else horizon
    run(
        lm,
        some,
        experiment.resolved(),
        n_vectors=experiment.n_vectors,
        seed=experiment.seed,
        batch=experiment.batch,
        path=experiment.path,
        progress=progress,
        on_result=finish,
        checkpoints=unfinished,
    )
    if kept < len(some):  # both end quietly on Ctrl-C
        raise KeyboardInterrupt


def _jobs(
    plan: Plan,
    lm: FrozenLM,
    store: Store,
    work: Sequence[tuple[Experiment, list[Passage]]],
    workers: Executor,
    resume: bool,
) -> list[Job]:
    """Work cut into batches, in the order to run them.

    The runs of a batch are stored together, so those cut from what an interrupted sweep left are the same as before.
    """
    batches = [
        (experiment, some[i : i + experiment.batch])
        for experiment, some in work
        for i in range(0, len(some), experiment.batch)
    ]
    names = [name for name in plan.models if lm.name in _names(name)]
    shared = max(1, torch.get_num_threads() // workers.local) if workers.local else None
    return [
        Job(
            model=[*names, lm.name][0],
            digest=lm.digest,
            dtype=str(lm.dtype).removeprefix("torch."),
            device=lm.device.type if workers.local else "auto",  # one calls from a login node without a GPU
            threads=workers.threads or shared,
            experiment=experiment,
            passages=tuple(replace(passage, tokenizer=None) for passage in some),
            folder=str(store.root.resolve()),
            resume=resume,
        )
        for experiment, some in prioritised(batches)
    ]


def _in_workers(workers: Executor, jobs: list[Job], keep: _Keep, *, progress: bool) -> None:
    """Hand over what workers bring, in this process and thread alone."""
    total, passes, began = sum(len(job.passages) for job in jobs), 0, time.monotonic()
    with (
        progress_bar(total, "run", f"sweep {jobs[0].model}", wanted=progress) as bar,
        contextlib.closing(_iterator(workers, jobs)) as finished,
    ):
        bar.refresh()
        for job, done in finished:
            for row, mem, path in done:
                keep(job.experiment, row, torch.from_numpy(mem), None if path is None else torch.from_numpy(path))
                passes += row["token_passes"]
                bar.set_postfix_str(f"{passes / (time.monotonic() - began):,.0f} token passes/s", refresh=False)
                bar.update()


def _iterator(workers: Executor, jobs: list[Job]) -> Generator[tuple[Job, list[Done]], None, None]:
    """A generator whatever the executor returns, so that it can be closed."""
    yield from workers(run_job, jobs)


def _log(store: Store, line: str) -> None:
    """One line more in the store's log. That is for people: a sweep does not stop for it."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError), (store.root / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{now} {line}\n")


def _line(experiment: Experiment, row: dict[str, Any]) -> str:
    exact = "exact" if row["exact"] else "not exact"
    return (
        f"stored: {', '.join(experiment.pages) or 'all pages'}; {row['model']}; {row['recipe']}; {row['passage']}; "
        f"{row['length']} of {row['offered']} tokens, {exact}; {row['steps']} steps, {row['seconds']:.1f} s"
    )


class _Unfinished:
    """The checkpoints of one experiment, in the store."""

    def __init__(self, lm: FrozenLM, experiment: Experiment, store: Store, *, resume: bool = True) -> None:
        self.lm, self.experiment, self.store, self.resume = lm, experiment, store, resume

    def load(self, passage: Passage) -> State | None:
        if not self.resume:
            return None
        key = key_of(self.lm, self.experiment, passage)
        try:
            state = self.store.unfinished(key)
        except Damaged as error:
            self.store.discard(key, error.reason)
            return None
        if state is not None and (wrong := misfit(state, self.lm, self.experiment, passage)):
            self.store.discard(key, wrong)
            return None
        return state

    def save(self, passage: Passage, state: State) -> None:
        self.store.checkpoint(key_of(self.lm, self.experiment, passage), state)


def misfit(state: State, lm: FrozenLM, experiment: Experiment, passage: Passage) -> str:
    """What keeps a run from going on from a state that a file holds; empty if nothing does."""
    how, n = experiment.resolved(), len(passage)
    mem = MEMORIES[how.memory].shape(lm, experiment.n_vectors)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("param", "moment1", "moment2", "mem"), mem)
    shapes |= dict.fromkeys(("weight", "correct", "nats"), (n,))
    shapes |= dict.fromkeys(("iterate", "average"), mem) if how.averaging else {}
    shapes |= {"numbers": (len(NUMBERS),), "trace": (-1, 5)} | ({"path": (-1, *mem)} if experiment.path else {})
    if set(state) != set(shapes):
        return f"it holds {', '.join(sorted(state))[:200]}"
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if len(found) != len(shape) or any(b not in (a, -1) for a, b in zip(found, shape, strict=True)):
            return f"{name} has shape {found}, expected {shape}"
        kind = {"correct": torch.bool, "nats": torch.float64, "numbers": torch.float64, "trace": torch.float64}
        if state[name].dtype != kind.get(name, torch.float32):
            return f"{name} is {state[name].dtype}"
    # A run that went astray may hold numbers that are not finite, but its counts are.
    if not bool(torch.cat([state["numbers"], state["trace"][:, [0, 1, 4]].flatten()]).isfinite().all()):
        return "its counts are not finite"
    length, steps, token_passes, best, best_step = state["numbers"][:5].tolist()
    if not (1 <= length <= n and 0 <= best <= n and min(steps, token_passes, best_step) >= 0):
        return f"its numbers are {state['numbers'].tolist()}"
    return ""


def results(scale: str, page: str | None = None, *, store: Store | None = None, progress: bool = True) -> pd.DataFrame:
    """The runs of a plan, computed first where the store lacks them: what a notebook reads.

    Args:
        scale: Name of a plan or path of one, see `load_plan`.
        page: The notebook's name, if only the runs that it shows are wanted.
        store: Where results are looked up and go; by default `store_of` the scale.
        progress: Whether to show bars while something is computed.

    Returns:
        The store's frame, and of each row's model the columns provenance (which weights, in a phrase), width and
        vocab_size.
    """
    plan, store = load_plan(scale).of(page), store or store_of(scale)
    about = []
    for name in plan.models:
        lm = load(name, dtype=plan.dtype)
        sweep(plan, lm, store, progress=progress)
        keys = {
            key_of(lm, experiment, passage) for experiment in plan.on(lm.name) for passage in offered(experiment, lm)
        }
        about += [(key, lm.provenance, lm.width, lm.vocab_size) for key in keys]
    columns = ["key", "provenance", "width", "vocab_size"]
    return store.frame().merge(pd.DataFrame(about, columns=columns), on="key", how="inner")


def crammed(frame: pd.DataFrame, lm: FrozenLM, *, tokens: int | None = None) -> list[Passage]:
    """What the vectors of runs hold: of each row its passage, cut to its length, or to so many tokens instead."""
    return [
        from_tokens(row.passage, row.source, row.token_ids[: tokens or row.length].tolist(), lm.tokenizer)
        for row in frame.query("length > 0").itertuples()
    ]


def recheck(store: Store, *, device: str = "auto", progress: bool = True) -> pd.DataFrame:
    """Decode every stored vector again from its model.

    Returns:
        The store's frame with `exact_now` and `margin_now` (logits), of the first `length` tokens of each passage.

    Raises:
        CrammingError: If a model's weights are not those the row was made with, or a row has no vector.
    """
    frame, vectors = store.frame(), store.vectors()
    exact, margins = {}, {}
    with progress_bar(len(frame), "vector", "check", wanted=progress) as bar:
        for (name, dtype), rows in frame.groupby(["model", "dtype"]):
            _stays(str(name), f"a row of {store.root.name}")
            lm = load(str(name), device=device, dtype=str(dtype))
            for row in rows.itertuples():
                if row.model_digest != lm.digest:
                    raise CrammingError(
                        f"{row.passage} was crammed into {name} {row.model_digest}, the model here is {lm.digest}: "
                        "fetch the same weights"
                    )
                if row.key not in vectors:
                    raise CrammingError(
                        f"run {row.key} of {row.passage} has no vector in the store: restore its shard"
                    )
                memory = Recipe.model_validate_json(row.recipe_json).memory
                if wrong := _impossible(lm, row, vectors[row.key], memory):
                    raise CrammingError(f"run {str(row.key)[:80]} of {store.root.name} {wrong}: restore its shard")
                if row.length:
                    again = certify(
                        lm,
                        vectors[row.key],
                        row.token_ids[: row.length].tolist(),
                        given=0 if row.score_first else 1,
                        memory=memory,
                    )
                    exact[row.key], margins[row.key] = again.exact, again.margin
                bar.update()
    return frame.assign(
        exact_now=frame["key"].map(exact).fillna(False).astype(bool),
        margin_now=frame["key"].map(margins).astype(float),
    )


def _impossible(lm: FrozenLM, row: Any, mem: torch.Tensor, memory: MemoryName) -> str:
    """What of a stored row cannot be, given the model; empty if all can."""
    if not 0 <= row.length <= len(row.token_ids):
        return f"has length {row.length} of {len(row.token_ids)} tokens"
    if len(row.token_ids) and not (0 <= min(row.token_ids) <= max(row.token_ids) < lm.vocab_size):
        return f"has token ids beyond the model's {lm.vocab_size}"
    if not 1 <= row.n_vectors <= mem.numel() or tuple(mem.shape) != MEMORIES[memory].shape(lm, row.n_vectors):
        return f"has a vector of shape {tuple(mem.shape)}, no {row.n_vectors} for {lm.name}"
    return ""


def row_of(lm: FrozenLM, experiment: Experiment, result: Cram | Horizon) -> tuple[dict[str, Any], torch.Tensor]:
    """The store's row of a finished run, certified, and its vectors."""
    how = experiment.resolved()
    first = 0 if how.score_first else 1
    if isinstance(result, Horizon):
        run, length, certificate = result.run, result.length, result.certificate
    else:
        run, length = result, result.length
        certificate = certify(lm, run.mem, run.passage.token_ids, given=first, memory=run.memory)
    token_ids = run.passage.token_ids[:length]
    certificate = certificate or Certificate(0, 0, 0, -np.inf, np.zeros(0, bool), np.zeros(0))
    nats_without, gaps_without = without_mem(lm, token_ids) if length else (np.zeros(0), np.zeros(0))
    scored = slice(first, None)
    measured = run.correct[:length][scored]
    row = {
        "key": key_of(lm, experiment, run.passage),
        "kind": experiment.kind,
        "recipe": how.name,
        "recipe_json": how.model_dump_json(),
        "source": run.passage.source,
        "passage": run.passage.id,
        "passage_digest": run.passage.digest,
        "offered": len(run.passage),
        "n_vectors": experiment.n_vectors,
        "seed": experiment.seed,
        "length": length,
        "ended": run.ended,
        "score_first": how.score_first,
        "accuracy": float(measured.mean()) if len(measured) else 0.0,
        "correct_teacher": int(certificate.correct.sum()),
        "correct_greedy": certificate.greedy_correct,
        "exact": length > 0 and certificate.exact,
        "margin": certificate.margin,
        "correct_with": int(measured.sum()),
        "correct_without": int((gaps_without[scored] > 0).sum()),
        "nats_with": float(run.nats[:length][scored].sum()),
        "nats_without": float(nats_without[scored].sum()),
        "token_ids": list(run.passage.token_ids),
        "token_correct": [False] * first + certificate.correct.tolist(),
        "token_nats_with": [np.nan] * first + certificate.nats.tolist(),
        "token_nats_without": nats_without,
        "steps": run.steps,
        "starts": run.starts,
        "token_passes": run.token_passes,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "batch": experiment.batch,
        **circumstances(lm),
        **dict(
            zip(
                ("trace_step", "trace_length", "trace_loss", "trace_accuracy", "trace_token_passes"),
                (list(column) for column in zip(*_thin(run.trace), strict=True)),
                strict=True,
            )
        ),
    }
    return row, run.mem


def circumstances(lm: FrozenLM) -> dict[str, str | int]:
    """What a number was measured with, for the columns of its row: model, number format, device, threads, versions."""
    return {
        "model": lm.name,
        "model_digest": lm.digest,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": device_name(lm.device),
        "versions": f"cramming {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def device_name(device: torch.device) -> str:
    """What the numbers were computed on, such as ``cpu x86_64`` or the name of the GPU."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}"


def _thin(trace: list[Step], most: int = 400) -> list[Step]:
    """About `most` rows of a trace, evenly spaced, the last one and the one of least loss always among them."""
    least = min(trace, key=lambda row: row[2])
    every = -(-len(trace) // most)
    return [row for i, row in enumerate(trace) if i % every == 0 or row is least or row is trace[-1]]
