"""Accidents, a few of each: the scripts that act them out are run with large counts by hand."""

from __future__ import annotations

import os

import pytest
import torch

from cramming.errors import CrammingError
from cramming.results.store import Store
from cramming.results.sweep import sweep
from tests.accidents import SMALL, content, kills, small_disk, small_files, together
from tests.conftest import model
from tests.fuzz import fuzz


def test_killed_sweeps_lose_nothing_and_end_as_if_undisturbed(tmp_path):
    assert kills(tmp_path, model("tiny-llama"), SMALL, 15)["kills"] >= 15


def test_two_sweeps_at_once_do_no_run_twice_and_lose_none(tmp_path):
    done = together(tmp_path, model("tiny-llama"), SMALL, 2)
    assert done["stored"] == done["runs"] // 2


def test_full_and_read_only_disks(tmp_path):
    try:
        full, read_only = small_disk(tmp_path, model("tiny-llama"), SMALL)
    except (PermissionError, FileNotFoundError):
        pytest.skip("this process may not mount a disk")
    assert "No space left on device" in full
    assert "Read-only file system" in read_only


def test_files_that_may_not_grow(tmp_path):
    assert "cannot be written" in small_files(tmp_path, model("tiny-llama"), SMALL)


def test_no_damaged_file_brings_a_reader_down(tmp_path):
    assert fuzz(tmp_path, 270)["refused"] > 135


def test_times_do_not_matter(tmp_path, monkeypatch):
    """As if the clock had been moved about: to a store it is the same whatever the times of its files."""
    store = Store(tmp_path)
    sweep(SMALL, model("tiny-llama"), store, progress=False)
    before = content(store)
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (i * 1e9, (7 - i % 3) * 1e9))
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert content(store) == before
    assert sweep(SMALL, model("tiny-llama"), store, progress=False) == 0
    store.compact()
    assert content(store) == before
    assert (store.frame()["seconds"] >= 0).all()


def test_checkpoint_that_does_not_fit_its_run_is_set_aside(tmp_path, capsys):
    from cramming.results.plans import key_of, offered

    store, lm, experiment = Store(tmp_path), model("tiny-llama"), SMALL.experiments[0]
    key = key_of(lm, experiment, offered(experiment, lm)[0])
    store.checkpoint(key, {"param": torch.ones(3, 3)})
    assert sweep(SMALL, lm, store, progress=False) == 12
    assert f"{key[:16]}.safetensors" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == [f"{key[:16]}.safetensors"]


def test_locks_that_a_file_system_lacks_are_done_without(tmp_path, monkeypatch, capsys):
    import cramming.results.store

    def none(*_):
        raise OSError(95, "Operation not supported")

    cramming.results.store._no_locks.cache_clear()
    monkeypatch.setattr(cramming.results.store.fcntl, "fcntl", none)
    monkeypatch.setattr(cramming.results.store.fcntl, "lockf", none)
    store = Store(tmp_path)
    assert sweep(SMALL, model("tiny-llama"), store, progress=False) == 12
    [line] = [line for line in capsys.readouterr().err.splitlines() if "locks" in line]
    assert "--part" in line
    with pytest.raises(CrammingError, match="cannot be written"), Store(tmp_path / ".lock").claim(["a"]):
        pass
