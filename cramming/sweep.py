"""Sweeps: a plan of runs, minus what the store holds, run in order and stored one by one."""

from __future__ import annotations

import contextlib
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cramming import __version__
from cramming.decode import Certificate, certify, without_mem
from cramming.engine import Cram, State, Step, cram, progress_bar
from cramming.errors import CrammingError
from cramming.files import inside, read_yaml
from cramming.horizon import Horizon, horizon
from cramming.memories import MEMORIES
from cramming.models import FrozenLM, load, parameter_count
from cramming.recipes import MemoryName, Recipe, recipe
from cramming.store import RESULTS, Damaged, Store, run_key
from cramming.texts import Passage, from_tokens, passages

WAIT_SECONDS = 1.0  # between two looks at what another sweep is at
PLANS = Path(__file__).resolve().parent.parent / "data" / "plans"


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


class Executor(Protocol):
    """Runs jobs; the serial one is here, others need only the same call."""

    def __call__(self, jobs: Iterator[Callable[[], None]]) -> None:
        """Run every job."""


def serial(jobs: Iterator[Callable[[], None]]) -> None:
    """Run jobs one after another in this process."""
    for job in jobs:
        job()


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


def estimate(plan: Plan) -> pd.DataFrame:
    """The most that a plan can cost, from its budgets: nothing is run, and no weights are fetched from the hub.

    A step takes 2 operations a parameter and token forward, and 2 backward, since the weights themselves get no
    gradient. Runs that are solved before their budget ends cost less; most do.

    Returns:
        One row a model, recipe, text and number of vectors: model, recipe, source, n_vectors, runs, tokens (of all
        passages), token_passes and operations (at most), gpu_hours (operations at `GPU_RATE`).

    Raises:
        CrammingError: If a model is unknown.
    """
    rows = []
    for name in plan.models:
        parameters = parameter_count(name)
        for experiment in plan.on(name):
            how = experiment.resolved()
            texts = len(experiment.sources) * experiment.n
            # With growth that many positions only at the end.
            memory = MEMORIES[how.memory]
            fed = [memory.positions(experiment.n_vectors, length) for length in experiment.lengths]
            each = [
                min((how.max_steps or math.inf) * positions, (how.max_token_passes or math.inf) + positions)
                for positions in fed
            ]
            passes = sum(each) * texts
            rows.append(
                {
                    "model": name,
                    "recipe": how.name,
                    "source": ", ".join(experiment.sources),
                    "n_vectors": experiment.n_vectors,
                    "runs": texts * len(experiment.lengths),
                    "tokens": sum(experiment.lengths) * texts,
                    "token_passes": passes,
                    "operations": 4 * parameters * passes,
                }
            )
    frame = pd.DataFrame(rows)
    by = ["model", "recipe", "source", "n_vectors"]
    frame = frame.groupby(by, as_index=False, sort=False).sum()
    return frame.assign(gpu_hours=frame["operations"] / GPU_RATE / 3600)


def sweep(
    plan: Plan,
    lm: FrozenLM,
    store: Store,
    *,
    part: tuple[int, int] = (0, 1),
    executor: Executor = serial,
    progress: bool = True,
) -> int:
    """Run what is pending and store each run as it ends.

    Damaged files of the store are set aside first, see `Store.repair`. Runs that another sweep of the store is at are
    left to it, and waited for at the end.

    Args:
        plan: What is wanted.
        lm: The plan's model.
        store: Where results go and are looked up.
        part: (i, n) runs the i-th of n shares of the work, so that n processes can share a plan.
        executor: What runs the jobs, one a experiment.
        progress: Whether to show bars.

    Returns:
        How many runs were stored. Ctrl-C raises KeyboardInterrupt; what was stored stays.
    """
    stored = elsewhere = 0

    def job(experiment: Experiment, some: list[Passage]) -> None:
        nonlocal elsewhere
        runs = {key_of(lm, experiment, passage): passage for passage in some}
        with store.claim(runs) as mine:
            elsewhere += len(runs) - len(mine)
            if mine:
                run_all(experiment, [passage for key, passage in runs.items() if key in mine])

    def run_all(experiment: Experiment, some: list[Passage]) -> None:
        nonlocal stored
        before = stored

        def keep(result: Cram | Horizon) -> None:
            nonlocal stored
            run = result.run if isinstance(result, Horizon) else result
            store.add(*row_of(lm, experiment, result), path=run.path)
            stored += 1

        shared: dict[str, Any] = {
            "n_vectors": experiment.n_vectors,
            "seed": experiment.seed,
            "batch": experiment.batch,
            "path": experiment.path,
            "progress": progress,
            "on_result": keep,
            "checkpoints": _Unfinished(lm, experiment, store),
        }
        run: Callable[..., object] = cram if experiment.kind == "cram" else horizon
        run(lm, some, experiment.resolved(), **shared)
        if stored - before < len(some):  # both end quietly on Ctrl-C
            raise KeyboardInterrupt

    store.repair()
    waited = False
    while work := pending(plan, lm, store, part):
        store.prepare()
        before, elsewhere = stored, 0
        executor((lambda e=experiment, s=some: job(e, s)) for experiment, some in work)  # type: ignore[misc]
        if not elsewhere:
            break
        if stored == before:
            if not waited:
                print(
                    f"cramming: waiting for {elsewhere} runs that another sweep of {store.root} is at", file=sys.stderr
                )
            waited = True
            time.sleep(WAIT_SECONDS)
    return stored


class _Unfinished:
    """The checkpoints of one experiment, in the store."""

    def __init__(self, lm: FrozenLM, experiment: Experiment, store: Store) -> None:
        self.lm, self.experiment, self.store = lm, experiment, store

    def load(self, passage: Passage) -> State | None:
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
    shapes |= {"numbers": (7,), "trace": (-1, 5)} | ({"path": (-1, *mem)} if experiment.path else {})
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
        "model": lm.name,
        "model_digest": lm.digest,
        "source": run.passage.source,
        "passage": run.passage.id,
        "passage_digest": run.passage.digest,
        "offered": len(run.passage),
        "n_vectors": experiment.n_vectors,
        "seed": experiment.seed,
        "dtype": str(lm.dtype).removeprefix("torch."),
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
        "token_passes": run.token_passes,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "batch": experiment.batch,
        "threads": torch.get_num_threads(),
        "device": device_name(lm.device),
        "versions": f"cramming {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
        **dict(
            zip(
                ("trace_step", "trace_length", "trace_loss", "trace_accuracy", "trace_token_passes"),
                (list(column) for column in zip(*_thin(run.trace), strict=True)),
                strict=True,
            )
        ),
    }
    return row, run.mem


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
