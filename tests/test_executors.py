"""Executors: every job once, whatever happens to the workers, and the same results wherever they are computed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest
import torch

from cramming import engine
from cramming.errors import CrammingError
from cramming.models import load
from cramming.results import executors
from cramming.results.executors import Dask, here, job_script, named, queued
from cramming.results.plans import Experiment, Plan
from cramming.results.store import Store
from cramming.results.sweep import LOG, prioritised, run_job, sweep
from cramming.texts import passages
from tests import jobs
from tests.conftest import model


@pytest.fixture(scope="module")
def cluster():
    """Two workers, reached over loopback, and what to start anew when a test kills one."""
    with here(2) as two:
        yield two


@pytest.fixture
def executor(cluster) -> Dask:
    return Dask(threads=1, cluster=cluster)


def experiment(**changes) -> Experiment:
    """Three passages and four steps each."""
    blank = {"kind": "cram", "recipe": "best", "changes": {"max_steps": 4}, "source": "fresh", "n": 3, "lengths": [4]}
    return Experiment.model_validate(blank | changes)


# Three batches, none with more passages than fit into it, so that serial has the same batches.
GROWING = experiment(
    kind="horizon", recipe="horizon", changes={"max_token_passes": 60, "restart_steps": None}, n=2, path=True, seed=3
)
PLAN = Plan(model="tiny-llama", experiments=(experiment(), experiment(lengths=[6], n=2), GROWING))


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("serial") / "results")
    assert sweep(PLAN, model("tiny-llama"), store, progress=False) == 7
    return store


# Jobs of any kind


def test_jobs_are_shared_out_and_a_worker_that_is_killed_replaced(executor, tmp_path):
    wanted = ["one", "two", str(tmp_path / "three"), "four", "five"]
    done = list(executor(jobs.die_where_told, wanted))
    assert (tmp_path / "three").exists()  # the premise: a worker was killed
    assert sorted(done) == sorted((job, f"did {job.rsplit(os.sep)[-1]}") for job in wanted)


def test_job_that_costs_two_workers_their_lives_is_named(executor):
    with pytest.raises(CrammingError, match=r"^always: its worker died twice") as caught:
        list(executor(jobs.die_where_told, ["always"]))
    assert "\n" not in str(caught.value)


def test_what_a_worker_refuses_is_one_line_here(executor):
    with pytest.raises(CrammingError) as caught:
        list(executor(jobs.refuse, [1, 2]))
    assert str(caught.value) == "job 2 is even: give odd ones"


def test_workers_take_several_jobs_each_and_end_with_the_last():
    done = dict(Dask(2)(jobs.double, range(6)))
    assert {job: twice for job, (twice, _) in done.items()} == {job: 2 * job for job in range(6)}
    pids = {pid for _, pid in done.values()}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_whose_work_is_done_leave_in_order(tmp_path):
    words = [str(tmp_path / name) for name in ("one", "two")]
    assert len(list(Dask(2)(jobs.leave_word, words))) == 2
    assert sorted(map(str, tmp_path.iterdir())) == words


def test_workers_end_when_nobody_wants_more():
    running = Dask(2)(jobs.double, range(6))
    _, (_, pid) = next(running)
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_each_worker_gets_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_gpus", lambda: ("7", "9"))
    some = [str(tmp_path / name) for name in ("one", "two")]
    devices = [device for _, device in named("dask")(jobs.seen_device, some)]
    assert sorted(devices) == ["7", "9"]


def test_names_of_executors(monkeypatch):
    monkeypatch.setattr(executors, "_gpus", lambda: ("0", "1", "2"))
    assert named("serial") is None
    assert named("dask") == Dask(3, None, ("0", "1", "2"))
    assert named("dask", workers=1, threads=4, scheduler="tcp://a:1") == Dask(
        1, 4, ("0", "1", "2"), scheduler="tcp://a:1"
    )
    assert (Dask(2).local, Dask(2, scheduler="tcp://a:1").local, Dask(5).local) == (2, 0, 5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: named("fortran"), "executor 'fortran' is unknown: use one of serial, dask$"),
        (lambda: named("serial", workers=2), "'serial' has no 2 workers: use dask"),
        (lambda: named("serial", scheduler="tcp://a:1"), "goes with executor 'dask', not 'serial'"),
        (lambda: Dask(0), "workers is 0: give at least 1"),
        (lambda: Dask(-1), "workers is -1"),
        (lambda: job_script("cron"), "batch system 'cron' is unknown: use one of slurm, pbs, lsf"),
        (lambda: queued("cron", 1), "batch system 'cron'"),
        (lambda: list(Dask(scheduler="carrier pigeon")(jobs.double, [1])), "no Dask scheduler answers at 'carrier"),
    ],
)
def test_mistakes_are_one_line(call, match):
    with pytest.raises(CrammingError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CrammingError, match=r"distributed is not installed: pip install 'cramming\[cluster\]'"):
        list(Dask(1)(jobs.double, [1]))


def test_workers_that_do_not_start_are_one_line(tmp_path):
    """In a script without the guard each worker would start workers in turn; Python refuses that."""
    script = tmp_path / "script.py"
    script.write_text("from cramming.results.executors import here\n\nhere(1)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cramming.errors.CrammingError: 1 workers did not start (Nanny failed to start")
    assert last.endswith('a script needs `if __name__ == "__main__":` around what it does')


# Batch systems


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        ("slurm", ["#SBATCH --cpus-per-task=8", "#SBATCH --mem=32G", "#SBATCH -t 10:30:00", "#SBATCH --gres=gpu:1"]),
        ("pbs", ["#PBS -l select=1:ncpus=8:mem=32GB:ngpus=1", "#PBS -l walltime=10:30:00"]),
        ("lsf", ["#BSUB -n 8", "#BSUB -M 32000000", "#BSUB -W 10:30", "#BSUB -gpu num=1"]),
    ],
)
def test_job_script_asks_for_what_was_said(system, lines):
    mark = lines[0].split()[0]
    script = job_script(
        system,
        cores=8,
        memory="32GB",
        walltime="10:30:00",
        gpus=1,
        queue="long",
        python="python3",
        directives=["--mine"],
        setup=["module load cuda"],
    )
    got = script.splitlines()
    assert got[0] == "#!/usr/bin/env bash"
    assert set(lines) | {f"{mark} --mine", "module load cuda"} <= set(got)
    assert any(line.startswith(mark) and line.endswith("long") for line in got)
    # One worker, one thread of Dask, one model.
    [worker] = [line for line in got if line.startswith("python3 -m distributed.cli.dask_worker tcp://")]
    assert "--nthreads 1 " in worker
    assert "--nanny" in worker
    assert "gpu" not in job_script(system, python="python3")


def test_ctrl_c_means_the_same_after_a_job_script():
    """The package that writes them makes it exit Python."""
    job_script("slurm", python="python3")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Sweeps


@dataclass
class Staged:
    """An executor whose workers do something else with their jobs: the first of all is killed in its third step."""

    inner: Dask
    instead: Callable = jobs.run_and_die_once
    threads: int = 1
    local: int = 2

    def __call__(self, function, some):
        assert function is run_job
        return self.inner(self.instead, some)


@pytest.mark.slow
def test_same_keys_and_vectors_as_serial_though_a_worker_is_killed(cluster, serial, tmp_path):
    store = Store(tmp_path / "results")
    assert sweep(PLAN, model("tiny-llama"), store, executor=Staged(Dask(cluster=cluster)), progress=False) == 7
    assert (store.root / ".died").exists()  # the premise
    assert (store.root / ".went-on").exists(), "the repeat began anew"
    assert not list((store.root / "unfinished").iterdir())
    assert store.keys() == serial.keys()
    costs = ["seconds", "cpu_seconds"]
    pd.testing.assert_frame_equal(store.frame().drop(columns=costs), serial.frame().drop(columns=costs))
    for mine, theirs in ((store.vectors(), serial.vectors()), (store.paths(), serial.paths())):
        assert mine.keys() == theirs.keys() != set()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items())
    assert sum("stored: " in line for line in (store.root / LOG).read_text().splitlines()) == 7
    assert sweep(PLAN, model("tiny-llama"), store, executor="dask", progress=False) == 0


class InThisProcess:
    """An executor without workers, to look at what a sweep does with one."""

    threads, local = 1, 1

    def __call__(self, function, some):
        return ((job, function(job)) for job in some)


def test_interrupted_sweep_keeps_the_batches_that_were_done(tmp_path, serial):
    class Interrupted(InThisProcess):
        def __call__(self, function, some):
            yield from list(super().__call__(function, some))[:2]
            signal.raise_signal(signal.SIGINT)

    store = Store(tmp_path / "results")
    with pytest.raises(KeyboardInterrupt):
        sweep(PLAN, model("tiny-llama"), store, executor=Interrupted(), progress=False)
    before = store.keys()
    assert 0 < len(before) < 7
    assert before < serial.keys()
    assert sweep(PLAN, model("tiny-llama"), store, executor=InThisProcess(), progress=False) == 7 - len(before)
    assert store.keys() == serial.keys()
    assert all(torch.equal(mem, serial.vectors()[key]) for key, mem in store.vectors().items())
    said = [line.split(" ", 1)[1] for line in (store.root / LOG).read_text().splitlines()]
    assert said[0].startswith("started: 7 runs pending on tiny-llama")
    assert f"interrupted: {len(before)} of 7 runs stored" in said
    assert said[-1] == f"finished: {7 - len(before)} of {7 - len(before)} runs stored"


@pytest.mark.parametrize("when", ["starting", "busy"])
def test_ctrl_c_ends_the_workers_of_a_sweep(tmp_path, when):
    """The real signal, while workers start, and while they are at their first jobs."""
    store, before = Store(tmp_path / "results"), multiprocessing.active_children()

    def reached() -> bool:
        if when == "busy":
            return (store.root / ".busy").exists()
        return len(multiprocessing.active_children()) > len(before)

    def press() -> None:
        while not reached():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sweep(PLAN, model("tiny-llama"), store, executor=Staged(Dask(2), jobs.begin_and_sleep), progress=False)
    assert set(multiprocessing.active_children()) <= set(before)
    assert (store.root / LOG).read_text().splitlines()[-1].endswith("interrupted: 0 of 7 runs stored")


def test_other_weights_in_a_worker_are_refused_and_logged(tmp_path, monkeypatch):
    monkeypatch.setattr("cramming.results.sweep._loaded", lambda *_: model("tiny-opt"))
    store = Store(tmp_path / "results")
    with pytest.raises(CrammingError, match=f"tiny-llama is {model('tiny-opt').digest} in a worker and"):
        sweep(PLAN, model("tiny-llama"), store, executor=InThisProcess(), progress=False)
    assert store.keys() == set()
    assert "failed: 0 of 7 runs stored: tiny-llama is" in (store.root / LOG).read_text()


def test_workers_leave_checkpoints_and_go_on_from_them(tmp_path, monkeypatch):

    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    found = []
    restore = engine._Run.restore
    monkeypatch.setattr(engine._Run, "restore", lambda self, state: (found.append(1), restore(self, state))[1])
    step, steps = engine._step, []

    def killed(*arguments):
        steps.append(arguments)
        if len(steps) == 4:
            raise MemoryError
        step(*arguments)

    store, lm = Store(tmp_path / "results"), model("tiny-llama")
    short = Plan(model="tiny-llama", experiments=(experiment(n=2),))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_step", killed)
        with pytest.raises(MemoryError):
            sweep(short, lm, store, executor=InThisProcess(), progress=False)
    assert len(list((store.root / "unfinished").iterdir())) == 2
    other = Store(tmp_path / "fresh")
    shutil.copytree(store.root, other.root)
    assert sweep(short, lm, other, executor=InThisProcess(), resume=False, progress=False) == 2
    assert not found
    assert sweep(short, lm, store, executor=InThisProcess(), progress=False) == 2
    assert len(found) == 2
    assert not list((store.root / "unfinished").iterdir())
    assert all(torch.equal(mem, other.vectors()[key]) for key, mem in store.vectors().items())


# The order of the work


def test_short_first_and_one_of_each_page_first():
    def of(page, *costs):
        return [(experiment(changes={"max_steps": cost}, pages=[page] if page else []), some) for cost in costs]

    some = passages("fresh", model("tiny-llama").tokenizer, n=1, length=4)
    work = [*of("far", 90, 70, 80), *of("near", 3, 1, 2), *of("", 50), *of("far", 60)]
    ordered = prioritised(work)
    assert [(e.pages, e.changes["max_steps"]) for e, _ in ordered] == [
        (("near",), 1),
        ((), 50),
        (("far",), 60),
        (("near",), 2),
        (("far",), 70),
        (("near",), 3),
        (("far",), 80),
        (("far",), 90),
    ]
    # Nothing is lost or made up, what costs the same stays in order, and ordering again changes nothing.
    assert prioritised(ordered) == ordered
    assert prioritised([]) == []
    alike = [(experiment(seed=seed), some) for seed in range(4)]
    assert prioritised(alike) == alike


def test_what_several_pages_show_counts_for_each():
    some = passages("fresh", model("tiny-llama").tokenizer, n=1, length=4)
    both_pages, one, other = (
        experiment(changes={"max_steps": cost}, pages=pages)
        for cost, pages in ((1, ["a", "b"]), (2, ["a"]), (3, ["c"]))
    )
    ordered = prioritised([(one, some), (other, some), (both_pages, some)])
    assert [e for e, _ in ordered] == [both_pages, other, one]


# Determinism


@pytest.mark.slow
def test_same_machine_same_bits_and_other_thread_counts_same_certified_results(cluster, tmp_path):
    asked = [(threads, str(tmp_path / f"{i}")) for i, threads in enumerate([1, 1, 2])]
    found = dict(Dask(cluster=cluster)(jobs.outcome, asked))  # in processes of their own
    (first, rows), (again, same_rows), (_, threaded_rows) = (found[job] for job in asked)
    assert any(exact for *_, exact in rows)  # the premise: something was reached
    assert jobs.outcome((1, str(tmp_path / "here"))) == (first, rows) == (again, same_rows)
    assert rows == threaded_rows


def test_a_model_in_a_folder_is_what_workers_load(tmp_path):
    lm = model("tiny-llama")
    lm.model.save_pretrained(tmp_path / "mine")
    lm.tokenizer.save_pretrained(tmp_path / "mine")
    mine = load(str(tmp_path / "mine"), device="cpu")
    plan = Plan(model=("tiny-opt", str(tmp_path / "mine")), experiments=(experiment(n=1),))
    assert sweep(plan, mine, Store(tmp_path / "results"), executor=InThisProcess(), progress=False) == 1
