"""Where jobs are executed: in workers of a Dask cluster, of this machine or of many; needs the extra ``cluster``.

An executor applies one function to many jobs and yields each job with its result as soon as that is there, in any
order. A worker gets the function and one job at a time. A job whose worker dies is repeated once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

from cramming.errors import CrammingError, first_line

NAMES = ("serial", "dask")
WORKERS = 2  # where no GPUs say how many
System = Literal["slurm", "pbs", "lsf"]

# Of a scheduler: a job goes to two workers at most, and to one that is free, since a job that waits at a worker that
# dies would count as lost with the one that was under way.
TWICE_AT_MOST = {"distributed.scheduler.allowed-failures": 1, "distributed.scheduler.worker-saturation": 1.0}

Job = TypeVar("Job")
Result = TypeVar("Result")


class Executor(Protocol):
    """Applies a function to jobs in workers.

    Attributes:
        threads: Of each worker; None leaves it to `local` or, elsewhere, to the worker.
        local: Workers that share the cores of this machine; 0 if they are elsewhere.
    """

    @property
    def threads(self) -> int | None: ...  # noqa: D102

    @property
    def local(self) -> int: ...  # noqa: D102

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Each job with its result, in the order in which they finish.

        Args:
            function: Of the top level of a module, so that a worker can import it.
            jobs: Each can be pickled, and reads in an error message as what it is.

        Raises:
            CrammingError: If one is raised in a worker, or a job cost two workers their lives.
        """


@dataclass(frozen=True)
class Dask:
    """Workers of a Dask cluster.

    Attributes:
        workers: How many processes to start on this machine, if neither scheduler nor cluster is given.
        threads: Of each worker.
        devices: GPUs for the workers started here, see `here`.
        scheduler: Address of a scheduler that runs already, such as ``tcp://10.0.0.1:8786``.
        cluster: A cluster object, such as one from `queued`. It is left open.
    """

    workers: int = WORKERS
    threads: int | None = None
    devices: tuple[str, ...] = ()
    scheduler: str | None = None
    cluster: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise CrammingError(f"workers is {self.workers}: give at least 1")

    @property
    def local(self) -> int:
        """Those started here."""
        return 0 if self.scheduler or self.cluster else self.workers

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """See `Executor`. Closing the iterator ends workers started here, and takes from others what they have not
        begun.
        """
        distributed = _extra("distributed")
        with contextlib.ExitStack() as stack:
            cluster = self.scheduler or self.cluster or stack.enter_context(here(self.workers, self.devices))
            try:
                client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
            except (OSError, ValueError) as error:
                raise CrammingError(
                    f"no Dask scheduler answers at {self.scheduler!r} ({' '.join(str(error).split())[:80]}): "
                    "start one with `dask scheduler`, or leave --scheduler out"
                ) from error
            # Earlier jobs first.
            futures = {client.submit(function, job, pure=False, priority=-i): job for i, job in enumerate(jobs)}
            stack.callback(client.cancel, list(futures))
            for future in distributed.as_completed(list(futures), loop=client.loop):
                job = futures.pop(future)
                try:
                    result = future.result()
                except distributed.KilledWorker:
                    raise CrammingError(
                        f"{job}: its worker died twice, killed or out of memory: use fewer workers or a smaller "
                        "batch; what was stored stays"
                    ) from None
                yield job, result


def here(workers: int = WORKERS, devices: Sequence[str] = ()) -> Any:
    """A Dask cluster of processes of this machine, reached over loopback, without a dashboard.

    ``Dask(cluster=here(2))`` keeps workers, and the models they loaded, from one sweep to the next.

    Args:
        workers: How many.
        devices: GPUs, as CUDA_VISIBLE_DEVICES names them, dealt out among the workers; none: no worker is told.

    Raises:
        CrammingError: If the extra is missing, or workers do not start.
    """
    distributed = _extra("distributed")
    options = {"nthreads": 1, "memory_limit": 0, "dashboard_address": None, "silence_logs": logging.ERROR}
    # Any free port: of the default, 8787, there is a warning where another scheduler has it.
    local = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with _extra("dask").config.set(TWICE_AT_MOST):
        cluster = distributed.SpecCluster(
            scheduler={"cls": distributed.Scheduler, "options": local}, silence_logs=logging.ERROR
        )
    for seat in range(workers):
        env = {"CUDA_VISIBLE_DEVICES": devices[seat % len(devices)]} if devices else {}
        cluster.worker_spec[seat] = {"cls": distributed.Nanny, "options": options | {"env": env}}
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.close)
        try:
            # If Ctrl-C broke off the start, nobody would close its workers. Shielded, it goes on, and they are closed.
            cluster.sync(lambda: asyncio.shield(cluster._correct_state()))
        except RuntimeError as error:
            raise CrammingError(
                f"{workers} workers did not start ({first_line(error)}): "
                'a script needs `if __name__ == "__main__":` around what it does'
            ) from error
        stack.pop_all()
    return cluster


def named(
    name: str, *, workers: int | None = None, threads: int | None = None, scheduler: str | None = None
) -> Dask | None:
    """The executor of a name; None for ``serial``, which needs no workers.

    Args:
        name: One of `NAMES`.
        workers: How many; by default one a GPU, or `WORKERS`.
        threads: Of each worker.
        scheduler: For ``dask``, the address of a scheduler that runs already.

    Raises:
        CrammingError: If there is no such executor, or it cannot be had so.
    """
    if name not in NAMES:
        raise CrammingError(f"executor {name!r} is unknown: use one of {', '.join(NAMES)}")
    if scheduler and name != "dask":
        raise CrammingError(f"scheduler {scheduler!r} goes with executor 'dask', not {name!r}: add --executor dask")
    if name == "serial":
        if workers not in {None, 1}:
            raise CrammingError(f"executor 'serial' has no {workers} workers: use dask")
        return None
    devices = _gpus()
    count = (len(devices) or WORKERS) if workers is None else workers
    return Dask(count, threads, devices, scheduler)


def queued(system: System, jobs: int, **options: Any) -> Any:
    """A Dask cluster whose workers are jobs of a batch system, for ``Dask(cluster=...)``.

    Args:
        system: Which batch system.
        jobs: How many jobs to submit, each one worker with one model.
        options: As `job_script` takes them.

    Raises:
        CrammingError: If the system is unknown, or the extra is missing.
    """
    kind = _kind(system)
    with _extra("dask").config.set(TWICE_AT_MOST):
        cluster = kind(**_job(system, **options))
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # unlike scale, replaces those that reach their walltime
    return cluster


def job_script(system: System, **options: Any) -> str:
    """What `queued` submits, once for each worker; nothing is submitted or started.

    Args:
        system: ``slurm``, ``pbs`` or ``lsf``.
        options: cores (of a job, default 4), memory (such as ``16GB``), walltime (``24:00:00``), gpus (0 or more),
            queue, directives (further lines of the header, without their mark), setup (lines of shell before the
            worker starts), python (the interpreter there), and what else the class of dask-jobqueue takes.

    Raises:
        CrammingError: If the system is unknown, or the extra is missing.
    """
    job = _kind(system).job_cls
    return str(job(scheduler="tcp://SCHEDULER", name="cramming", **_job(system, **options)).job_script())


def _job(
    system: System,
    *,
    cores: int = 4,
    memory: str = "16GB",
    walltime: str = "24:00:00",
    gpus: int = 0,
    directives: Sequence[str] = (),
    setup: Sequence[str] = (),
    python: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The options of dask-jobqueue. One Dask thread a job: a worker runs one batch at a time, on all its cores."""
    size = importlib.import_module("dask.utils").parse_bytes(memory)
    gpu = {"slurm": f"--gres=gpu:{gpus}", "pbs": "", "lsf": f"-gpu num={gpus}"}[system] if gpus else ""
    shape: dict[str, dict[str, Any]] = {
        "slurm": {"job_cpu": cores, "job_mem": memory.replace("B", "")},
        "pbs": {"resource_spec": f"select=1:ncpus={cores}:mem={memory}" + (f":ngpus={gpus}" if gpus else "")},
        "lsf": {"ncpus": cores, "mem": size},
    }
    return {
        "job_name": "cramming",
        "cores": 1,
        "processes": 1,
        "memory": memory,
        "walltime": walltime.rsplit(":", 1)[0] if system == "lsf" else walltime,  # LSF knows hours and minutes only
        "job_extra_directives": [*filter(None, [gpu]), *directives],
        "job_script_prologue": list(setup),
        "python": python or sys.executable,
        **shape[system],
        **others,
    }


def _kind(system: str) -> Any:
    if system not in get_args(System):
        raise CrammingError(f"batch system {system!r} is unknown: use one of {', '.join(get_args(System))}")
    return getattr(_extra("dask_jobqueue"), f"{system.upper()}Cluster")


def _extra(module: str) -> Any:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CrammingError(f"{module} is not installed: pip install 'cramming[cluster]'") from error
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)  # dask-jobqueue makes Ctrl-C exit Python as soon as it is imported


def _gpus() -> tuple[str, ...]:
    """The GPUs of this process, by the names that CUDA_VISIBLE_DEVICES takes."""
    torch = importlib.import_module("torch")  # not at the top: a worker without a model need not load it
    if not torch.cuda.is_available():
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(visible.split(",") if visible else map(str, range(torch.cuda.device_count())))
