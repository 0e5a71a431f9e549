"""What workers run in the tests. Imports little, so that a worker starts fast."""

from __future__ import annotations

import atexit
import os
import signal
import time
from pathlib import Path
from typing import Any

from cramming.errors import CrammingError


def double(job: int) -> tuple[int, int]:
    """Twice the job, and who did it."""
    return 2 * job, os.getpid()


def die_where_told(job: str) -> str:
    """Killed at a job that names a file, unless that is there; at `always`, every time."""
    if job == "always" or (os.sep in job and _first_time(Path(job))):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"did {Path(job).name}"


def leave_word(job: str) -> None:
    """Make a file when this process ends in order."""
    atexit.register(Path(job).touch)


def refuse(job: int) -> int:
    """Only odd jobs can be done."""
    if job % 2:
        return job
    raise CrammingError(f"job {job} is even: give odd ones")


def seen_device(job: str) -> str | None:
    """The GPU that the worker was given, once two jobs are under way: each then has a worker of its own."""
    Path(job).touch()
    until = time.monotonic() + 60
    while len(list(Path(job).parent.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def begin_and_sleep(job: Any) -> None:
    """Leave a file in the job's store, and be busy for longer than any test."""
    (Path(job.folder) / ".busy").touch()
    time.sleep(3600)


def run_and_die_once(job: Any) -> Any:
    """As `cramming.results.sweep.run_job`, but the first worker of all is killed at its third step.

    It saves checkpoints after the others; who goes on from one leaves a file in the store.
    """
    from cramming import engine
    from cramming.results import sweep

    restore = engine._Run.restore

    def went_on(self: Any, state: Any) -> Any:
        (Path(job.folder) / ".went-on").touch()
        return restore(self, state)

    engine._Run.restore = went_on
    if _first_time(Path(job.folder) / ".died"):
        engine.CHECKPOINT_SECONDS = 0.0
        step, steps = engine._step, []

        def last_step(*arguments: Any) -> None:
            steps.append(arguments)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            step(*arguments)

        engine._step = last_step
    try:
        return sweep.run_job(job)
    finally:
        engine._Run.restore = restore


def outcome(job: tuple[int, str]) -> tuple[str, list[tuple[str, int, bool]]]:
    """Of a few crams with so many threads, in a store of their own: SHA-256 of the vectors, and what rows say."""
    import hashlib

    import torch

    from cramming.models import load
    from cramming.results.plans import Experiment, Plan
    from cramming.results.store import Store
    from cramming.results.sweep import sweep

    threads, folder = job
    torch.set_num_threads(threads)
    growing = {"kind": "horizon", "recipe": "horizon", "source": "novels", "n": 2, "lengths": [12], "batch": 2}
    experiment = Experiment.model_validate(growing | {"changes": {"max_token_passes": 150}})
    store = Store(folder)
    sweep(Plan(model="tiny-llama", experiments=(experiment,)), load("tiny-llama"), store, progress=False)
    vectors, frame = store.vectors(), store.frame()
    digest = hashlib.sha256(b"".join(vectors[key].numpy().tobytes() for key in sorted(vectors))).hexdigest()
    assert (frame["threads"] == threads).all()
    return digest, list(frame[["passage", "length", "exact"]].itertuples(index=False, name=None))


def _first_time(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
