"""What workers run in the tests. Imports little, so that a worker starts fast."""

from __future__ import annotations

import atexit
import os
import signal
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


def seen_device(job: int) -> str | None:
    """The GPU that the worker was given."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def run_and_die_once(job: Any) -> Any:
    """As `cramming.results.sweep.run_job`, but the first worker of all is killed at its third step."""
    from cramming import engine
    from cramming.results import sweep

    if _first_time(Path(job.folder) / ".died"):
        step, steps = engine._step, []

        def last_step(*arguments: Any) -> None:
            steps.append(arguments)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            step(*arguments)

        engine._step = last_step
    return sweep.run_job(job)


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
