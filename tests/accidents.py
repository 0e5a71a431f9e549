"""Accidents, acted out on sweeps of a tiny model: kills, two sweeps at once, a full disk. Each counts what it did.

    python -m tests.accidents kills 200
    python -m tests.accidents together 20
    python -m tests.accidents disk 1

Children are forked, not started, since the import of torch takes longer than a sweep. They do not touch what is not in
the folder they are given, and none outlives its function.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from cramming import engine
from cramming.errors import CrammingError
from cramming.models import FrozenLM, load
from cramming.results.plans import Plan
from cramming.results.store import DAMAGED, Store
from cramming.results.sweep import sweep

COSTS = ["seconds", "cpu_seconds"]


# Short runs of three kinds. One passage at a time: in other company a run ends with other rounding.
SMALL = Plan.model_validate(
    {
        "model": "tiny-llama",
        "experiments": [
            {"kind": kind, "recipe": recipe, "changes": changes, "source": "fresh", "n": n, "lengths": [6], "batch": 1}
            | ({"path": True} if kind == "horizon" else {})
            for kind, recipe, changes, n in (
                ("cram", "best", {"max_steps": 4}, 5),
                (
                    "horizon",
                    "horizon",
                    {"max_token_passes": 30, "growth": {"start": 2, "block": 2}, "restart_steps": None},
                    4,
                ),
                ("cram", "paper", {"max_steps": 4}, 3),
            )
        ],
    }
)


def content(store: Store) -> str:
    """SHA-256 of all that a store holds but what depends on the machine's mood."""
    frame, sha = store.frame().drop(columns=COSTS).sort_values("key"), hashlib.sha256()
    for row in frame.to_dict("records"):
        sha.update(repr({name: getattr(value, "tolist", lambda v=value: v)() for name, value in row.items()}).encode())
    for tensors in (store.vectors(), store.paths()):
        for key, tensor in sorted(tensors.items()):
            sha.update(key.encode() + tensor.numpy().tobytes())
    return sha.hexdigest()


def kills(root: Path, lm: FrozenLM, plan: Plan, count: int, seed: int = 0) -> dict[str, int]:
    """Kill sweeps at random moments, one after another, until so many are dead; stores that get whole start anew.

    Returns:
        kills, rounds (stores that got whole and held what an undisturbed sweep's holds), and where the kills struck:
        temporary (files that were being written), checkpoints (runs under way that had been saved).
    """
    draw, done = random.Random(seed), dict.fromkeys(("kills", "rounds", "temporary", "checkpoints"), 0)
    start = time.monotonic()
    expected = content(_whole(root / "undisturbed", lm, plan))
    took = (time.monotonic() - start) / 3
    while done["kills"] < count or done["rounds"] == 0:
        store, held = Store(root / f"round-{done['rounds']}"), set[str]()
        longest = begin = took
        while True:
            child = _fork(lambda store=store: _sweep_and_compact(store, lm, plan))
            ended = _ended(child, draw.uniform(0, longest) if done["kills"] < count else 600)
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done["kills"] += 1
            done["temporary"] += len(list(store.root.glob(".*.*")))
            done["checkpoints"] += len(list((store.root / "unfinished").glob("*")))
            now = store.keys()
            assert held <= now, f"lost {held - now}"
            assert set(store.frame()["key"]) == now <= set(store.vectors())
            assert not (store.root / DAMAGED).exists(), "a kill damaged a file"
            longest = begin if held < now else longest * 1.5
            held = now
            if ended:
                break
        assert content(store) == expected, "other results than undisturbed"
        assert not list(store.root.glob(".*.*")), "left behind"
        done["rounds"] += 1
    return done


def together(root: Path, lm: FrozenLM, plan: Plan, count: int, seed: int = 0) -> dict[str, int]:
    """Two sweeps of one store at once, a third process that merges its shards all the while, so many times over.

    In every other round one of the sweeps is killed on the way, and the other must do what is left.

    Returns:
        rounds, runs (asked for), stored (by the sweeps that lived, in rounds without a kill), kills.
    """
    draw, done = random.Random(seed), dict.fromkeys(("rounds", "runs", "stored", "kills"), 0)
    undisturbed = _whole(root / "undisturbed", lm, plan)
    expected, runs = content(undisturbed), len(undisturbed.keys())
    for number in range(count):
        store = Store(root / f"together-{number}")
        counts = [root / f"stored-{number}-{i}" for i in range(2)]
        pair = [
            _fork(lambda store=store, to=to: to.write_text(str(sweep(plan, lm, store, progress=False))))
            for to in counts
        ]
        merging = _fork(lambda store=store: _merge_for_ever(store))
        try:
            if number % 2 and not _ended(pair[0], draw.uniform(0, 3)):
                os.kill(pair[0], signal.SIGKILL)
                os.waitpid(pair[0], 0)
                done["kills"] += 1
                assert _ended(pair[1], 600)
            else:
                assert _ended(pair[1], 600)
                if not number % 2:
                    assert _ended(pair[0], 600)
                    stored = sum(int(to.read_text()) for to in counts)
                    assert stored == runs, f"{stored} runs done, {runs} asked for"
                    done["stored"] += stored
        finally:
            os.kill(merging, signal.SIGKILL)
            os.waitpid(merging, 0)
        assert content(store) == expected, "other results than one sweep alone"
        done["rounds"], done["runs"] = done["rounds"] + 1, done["runs"] + runs
    return done


def small_disk(root: Path, lm: FrozenLM, plan: Plan) -> list[str]:
    """Sweep onto a disk that fills up, then onto one that is read-only, then onto one with room: what was said.

    Needs the right to mount; see `small_files` for those without.
    """
    expected, said = content(_whole(root / "undisturbed", lm, plan)), []
    with _mounted(root / "disk", "size=128k") as disk:
        store = Store(disk / "results")
        said.append(_refusal(lambda: sweep(plan, lm, store, progress=False)))
        held = store.keys()
        assert len(held) > 0
        assert set(store.frame()["key"]) == held <= set(store.vectors())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said.append(_refusal(lambda: sweep(plan, lm, store, progress=False)))
        assert store.keys() == held
        subprocess.run(["mount", "-o", "remount,rw,size=64m", str(disk)], check=True)
        sweep(plan, lm, store, progress=False)
        assert held < store.keys()
        assert content(store) == expected
    return said


def small_files(root: Path, lm: FrozenLM, plan: Plan) -> str:
    """Sweep where no file may grow beyond 16 KiB, as if the disk were full at the first larger one: what was said."""
    store, line = Store(root / "results"), root / "said"

    def refused() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))
        said = _refusal(lambda: sweep(plan, lm, store, progress=False))
        line.write_text(said)

    assert _ended(_fork(refused), 600)
    held = store.keys()
    sweep(plan, lm, store, progress=False)
    assert held <= store.keys()
    assert content(store) == content(_whole(root / "undisturbed", lm, plan))
    return line.read_text()


def _whole(root: Path, lm: FrozenLM, plan: Plan) -> Store:
    store = Store(root)
    sweep(plan, lm, store, progress=False)
    return store


def _sweep_and_compact(store: Store, lm: FrozenLM, plan: Plan) -> None:
    engine.CHECKPOINT_SECONDS = 0.0
    sweep(plan, lm, store, progress=False)
    store.compact()


def _merge_for_ever(store: Store) -> None:
    while True:
        store.compact()
        store.frame()
        time.sleep(0.02)


def _fork(act: Callable[[], object]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 1
    tqdm.set_lock(threading.RLock())  # not the one that all forks share: a killed sibling may hold it for ever
    try:
        act()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _ended(child: int, seconds: float) -> bool:
    """Whether a child ends in that time, and well."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0, "a sweep failed, see its traceback"
            return True
        time.sleep(0.002)
    return False


def _refusal(act: Callable[[], object]) -> str:
    with pytest.raises(CrammingError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextlib.contextmanager
def _mounted(place: Path, options: str) -> Iterator[Path]:
    """A small disk in memory.

    Raises:
        PermissionError: If this process may not mount one.
    """
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("accident", choices=["kills", "together", "disk"])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tiny = load("tiny-llama", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        if asked.accident == "disk":
            for sentence in small_disk(Path(folder), tiny, SMALL):
                print(sentence.replace(folder, ""))
        else:
            act = {"kills": kills, "together": together}[asked.accident]
            print(act(Path(folder), tiny, SMALL, asked.count, asked.seed))
