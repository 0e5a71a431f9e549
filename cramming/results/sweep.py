"""Sweeps: a plan of runs, minus what the store holds, run here or in workers and stored one by one."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from cramming.engine import NUMBERS, Cram, State, cram, progress_bar
from cramming.errors import CrammingError
from cramming.horizon import Horizon, horizon
from cramming.memories import MEMORIES
from cramming.models import PACKAGED, FrozenLM, consented, load
from cramming.results.estimate import most_passes
from cramming.results.executors import Executor, named
from cramming.results.plans import Experiment, Plan, key_of, load_plan, names_of, offered, store_of
from cramming.results.rows import row_of
from cramming.results.store import Damaged, Store
from cramming.texts import Passage

WAIT_SECONDS = 1.0  # between two looks at what another sweep is at
LOG = "sweep.log"  # in the store's folder: what was done when, for people


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
        executor: ``serial``, ``dask``, or an executor such as `cramming.results.executors.Dask`.
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


def results(
    scale: str,
    page: str | None = None,
    *,
    store: Store | None = None,
    progress: bool = True,
    models: dict[str, FrozenLM] | None = None,
) -> pd.DataFrame:
    """The runs of a plan, computed first where the store lacks them: what a notebook reads.

    Of a model whose terms were not accepted on this machine, what the store holds is read, and nothing computed.

    Args:
        scale: Name of a plan or path of one, see `load_plan`.
        page: The notebook's name, if only the runs that it shows are wanted.
        store: Where results are looked up and go; by default `store_of` the scale.
        progress: Whether to show bars while something is computed.
        models: Those already loaded by name; whoever gives a dict finds the plan's models in it afterwards.

    Returns:
        The store's frame, and of each row's model the columns provenance (which weights, in a phrase), width and
        vocab_size.
    """
    plan, store = load_plan(scale).of(page), store or store_of(scale)
    about = []
    for name in plan.models:
        if not consented(name):
            packaged = PACKAGED[name]
            facts = packaged.provenance(plan.dtype), packaged.width, packaged.vocab_size
            about += [(key, *facts) for key in _stored(plan, store, name)]
            continue
        loaded = {} if models is None else models
        lm = loaded.setdefault(name, loaded.get(name) or load(name, dtype=plan.dtype))
        sweep(plan, lm, store, progress=progress)
        keys = {
            key_of(lm, experiment, passage) for experiment in plan.on(lm.name) for passage in offered(experiment, lm)
        }
        about += [(key, lm.provenance, lm.width, lm.vocab_size) for key in keys]
    columns = ["key", "provenance", "width", "vocab_size"]
    return store.frame().merge(pd.DataFrame(about, columns=columns), on="key", how="inner")


def _stored(plan: Plan, store: Store, name: str) -> list[str]:
    """Keys of the runs of a model that the store holds and the plan asks for, told without the model."""
    how = ["kind", "recipe_json", "source", "n_vectors", "seed"]
    asked = {
        (one.kind, one.resolved().model_dump_json(), source, one.n_vectors, one.seed)
        for one in plan.on(name)
        for source in one.sources
    }
    rows = store.frame().query("model == @name and dtype == @plan.dtype")
    return [key for key, *run in rows[["key", *how]].itertuples(index=False) if tuple(run) in asked]


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


@lru_cache(maxsize=1)  # a plan goes from model to model, and the largest fills a device
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
    names = [name for name in plan.models if lm.name in names_of(name)]
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
