"""The store: nothing it has taken is ever lost, and damage is named."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import cramming.files
import cramming.results.store
from cramming.errors import CrammingError
from cramming.results.store import DAMAGED, LOCK, NEEDED, SCHEMA, Store, run_key
from tests.conftest import contents

EXAMPLES = {"string": "words", "int64": 7, "double": 0.25, "bool": True, "float": 0.5, "int32": 3}


def row(key: str, **changes) -> dict:
    """A row with something in every column."""
    blank = {
        field.name: [EXAMPLES[str(field.type.value_type)]] * 3
        if pa.types.is_list(field.type)
        else EXAMPLES[str(field.type)]
        for field in SCHEMA
    }
    return blank | {"key": key} | changes


def mem(seed: int, k: int = 1) -> torch.Tensor:
    return torch.randn(k, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path) -> Store:
    """Three runs, each in its own shard."""
    store = Store(tmp_path / "results")
    for i in range(3):
        store.add(row(f"key-{i}", seed=i), mem(i))
    return store


def fails(match: str, call, *arguments) -> str:
    with pytest.raises(CrammingError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What goes in comes out


def test_round_trip(tmp_path):
    store = Store(tmp_path / "new" / "results")
    given_row = row(
        "key",
        margin=np.float32(-0.5),
        exact=np.bool_(False),
        nats_with=float("nan"),
        recipe_json='{"lr": 0.1}',
        token_ids=[5, 6],
        token_correct=np.array([True, False]),
        token_nats_with=np.array([np.nan, 1.5], dtype=np.float32),
        trace_loss=[],
    )
    store.add(given_row, mem(1, k=2))
    frame = store.frame()
    assert list(frame.columns) == SCHEMA.names
    [back] = frame.to_dict("records")
    assert (back["key"], back["margin"], back["exact"], back["recipe_json"]) == ("key", -0.5, False, '{"lr": 0.1}')
    assert np.isnan(back["nats_with"])
    assert back["token_ids"].tolist() == [5, 6]
    assert back["token_correct"].tolist() == [True, False]
    np.testing.assert_array_equal(back["token_nats_with"], [np.nan, 1.5])
    assert len(back["trace_loss"]) == 0
    assert store.keys() == set(store.vectors()) == {"key"}
    assert torch.equal(store.vectors()["key"], mem(1, k=2))


def test_half_precision_vectors_are_kept_as_float32(store):
    store.add(row("half"), mem(9).bfloat16())
    assert store.vectors()["half"].dtype == torch.float32
    assert torch.equal(store.vectors()["half"], mem(9).bfloat16().float())


def test_empty_store_is_a_store(tmp_path):
    store = Store(tmp_path / "none")
    assert store.keys() == set()
    assert store.vectors() == {}
    assert store.compact() is None
    assert store.frame().empty
    assert list(store.frame().columns) == SCHEMA.names
    assert not store.root.exists()


def test_frame_is_sorted_whatever_the_order_of_writing(tmp_path):
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    rows = [row(f"key-{i}", recipe="ab"[i % 2], passage=f"p{-i}", seed=-i) for i in range(6)]
    for store, order in ((one, rows), (two, rows[::-1])):
        for i, values in enumerate(order):
            store.add(values, mem(i))
    pd.testing.assert_frame_equal(one.frame(), two.frame())
    assert one.frame()["recipe"].tolist() == ["a"] * 3 + ["b"] * 3


def test_row_must_fit_the_schema(store):
    before = contents(store.root)
    lacking = row("key")
    del lacking["margin"]
    fails(r"columns \['margin'\] do not fit", store.add, lacking, mem(0))
    fails(r"columns \['colour'\] do not fit", store.add, row("key") | {"colour": "red"}, mem(0))
    assert contents(store.root) == before


def test_run_stored_again_replaces_the_old_one(store):
    store.add(row("key-1", steps=99), mem(50))
    frame = store.frame().set_index("key")
    assert len(frame) == 3
    assert frame.loc["key-1", "steps"] == 99
    assert torch.equal(store.vectors()["key-1"], mem(50))


def test_row_and_vector_of_a_run_stored_twice_belong_together(store):
    """Two machines can have run the same: whichever is taken, the vector must be the one the row speaks of."""
    store.compact()
    for i in range(3):
        store.add(row(f"key-{i}", steps=100 + i), mem(100 + i))
    assert len(list(store.root.glob("*.parquet"))) == 4
    for _ in range(2):
        frame, vectors = store.frame().set_index("key"), store.vectors()
        assert len(frame) == 3
        for i in range(3):
            new = frame.loc[f"key-{i}", "steps"] == 100 + i
            assert torch.equal(vectors[f"key-{i}"], mem(100 + i if new else i))
        store.compact()


# Keys

NAMES = st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.randoms())
def test_key_ignores_the_order_of_fields(decides, random):
    items = list(decides.items())
    random.shuffle(items)
    assert run_key(dict(items)) == run_key(decides)
    assert len(run_key(decides)) == 64


@given(st.dictionaries(NAMES, st.integers(), min_size=1, max_size=5), st.data())
def test_key_sees_every_field(decides, data):
    name = data.draw(st.sampled_from(sorted(decides)))
    assert run_key(decides | {name: decides[name] + 1}) != run_key(decides)
    assert run_key({field: value for field, value in decides.items() if field != name}) != run_key(decides)


def test_key_is_the_same_on_every_machine():
    # Recorded once: a change here would orphan every stored result.
    assert run_key({"b": [1, 2.5], "a": "é"}) == "1d5aa48ef9cd2b6be14efd77e6aa32fc7767713b66a7abf3c772a7863e7c199a"


def test_key_refuses_what_json_has_no_word_for():
    with pytest.raises(ValueError, match="JSON compliant"):
        run_key({"lr": float("nan")})


# Compacting


def test_compact_keeps_every_run(store):
    frame, vectors = store.frame(), store.vectors()
    path = store.compact()
    assert sorted(contents(store.root)) == [LOCK, path.name, path.with_suffix(".safetensors").name]
    pd.testing.assert_frame_equal(store.frame(), frame)
    assert set(store.vectors()) == set(vectors)
    assert all(torch.equal(store.vectors()[key], vectors[key]) for key in vectors)
    # Nothing left to do; and more can be added.
    before = contents(store.root)
    assert store.compact() == path
    assert contents(store.root) == before
    store.add(row("key-3"), mem(3))
    store.compact()
    assert store.keys() == {f"key-{i}" for i in range(4)}


def test_path_lies_beside_its_vector_and_is_no_vector(store):
    way = torch.stack([mem(4), mem(5), mem(6)])
    store.add(row("key-3"), mem(3), path=way)
    assert set(store.vectors()) == {f"key-{i}" for i in range(4)}
    assert set(store.paths()) == {"key-3"}
    store.compact()
    assert torch.equal(store.paths()["key-3"], way)
    assert torch.equal(store.vectors()["key-3"], mem(3))


def test_compact_drops_nothing_when_vectors_are_missing(store):
    path = next(store.root.glob("*.safetensors"))
    [key] = load_file(path)
    save_file({}, path)
    before = contents(store.root) | {LOCK: b""}
    assert "SHA-256 is not the one" in fails("is damaged", store.compact)
    # A shard of an older version does not say what its vectors' file must be.
    rows = path.with_suffix(".parquet")
    pq.write_table(pq.read_table(rows).replace_schema_metadata(), rows)
    before = contents(store.root)
    assert key in fails("lacks the vectors of 1 runs", store.compact)
    assert contents(store.root) == before


# Killed


@pytest.mark.parametrize("death", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("act", ["add", "compact"])
@pytest.mark.parametrize("moment", ["vectors", "between", "rows", "rename"])
def test_death_while_writing_loses_nothing_stored(store, monkeypatch, moment, act, death):
    frame, vectors = store.frame(), store.vectors()

    def die(*_, **__):
        raise death

    def die_half_way(kind, share=2, write=Path.write_bytes):
        """Writing a file of one kind ends the process, with half of it there or none."""

        def dying(path, blob):
            if f".{kind}." not in path.name:
                return write(path, blob)
            with path.open("wb") as file:
                file.write(bytes(blob)[: len(blob) // share])
            raise death

        return dying

    def die_at_rows(path, target, rename=Path.replace):
        return die() if target.suffix == ".parquet" else rename(path, target)

    with monkeypatch.context() as patch:
        if moment == "vectors":
            patch.setattr(Path, "write_bytes", die_half_way("safetensors"))
        elif moment == "between":
            patch.setattr(Path, "write_bytes", die_half_way("parquet", share=10**9))
        elif moment == "rows":
            patch.setattr(Path, "write_bytes", die_half_way("parquet"))
        else:
            patch.setattr(Path, "replace", die_at_rows)
        with pytest.raises((KeyboardInterrupt, CrammingError), match=r"^$|No space left on device.*make it writable"):
            store.add(row("new"), mem(4)) if act == "add" else store.compact()
    pd.testing.assert_frame_equal(store.frame(), frame)
    assert all(torch.equal(store.vectors()[key], vectors[key]) for key in vectors)
    # Nothing half-written stays in the way of the next try.
    store.add(row("new"), mem(4))
    store.compact()
    assert store.keys() == set(store.vectors()) == {"key-0", "key-1", "key-2", "new"}
    assert len(list(store.root.glob("*.parquet"))) == 1
    assert [path.name for path in store.root.glob(".*")] == [LOCK]


def test_leftovers_of_a_killed_process_are_ignored(store):
    frame = store.frame()
    stem = next(store.root.glob("*.parquet")).stem
    for name in (f".{stem}.parquet.123", f".{stem}.safetensors.123", ".probe.123"):
        (store.root / name).write_bytes(b"half")
    save_file({"orphan": mem(0)}, store.root / "0123456789abcdef.safetensors")
    pd.testing.assert_frame_equal(store.frame(), frame)
    assert store.keys() == set(frame["key"])
    store.compact()
    pd.testing.assert_frame_equal(store.frame(), frame)


def test_temporary_file_is_flushed_before_it_gets_its_name(store, monkeypatch):
    events = []
    flush, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("flush"), flush(file)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append(to.suffix), rename(path, to)))
    store.add(row("new"), mem(4))
    # The vectors first: rows without vectors would be worse than vectors without rows.
    assert events == ["flush", ".safetensors", "flush", ".parquet"]


# Runs under way


def test_checkpoint_is_kept_until_the_run_is_done(store):
    shared = mem(7)
    state = {"param": shared, "mem": shared, "correct": torch.tensor([True]), "numbers": torch.ones(3).double()}
    frame = store.frame()
    assert store.unfinished("a" * 64) is None
    store.checkpoint("a" * 64, {"param": mem(6)})
    store.checkpoint("a" * 64, state)
    back = store.unfinished("a" * 64)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)
    # It is no result.
    pd.testing.assert_frame_equal(store.frame(), frame)
    assert set(store.vectors()) == set(frame["key"])
    store.compact()
    assert store.unfinished("b" * 64) is None
    store.add(row("b" * 64), mem(8))
    assert store.unfinished("a" * 64) is not None
    store.add(row("a" * 64), mem(7))
    assert store.unfinished("a" * 64) is None


def test_checkpoint_that_is_damaged_or_cannot_be_written(store, tmp_path):
    store.checkpoint("a" * 64, {"param": mem(6)})
    [path] = (store.root / "unfinished").iterdir()
    damage(path, "truncated")
    assert path.name in fails("is damaged", store.unfinished, "a" * 64)
    (tmp_path / "file").write_text("")
    fails("cannot be written", Store(tmp_path / "file" / "x").checkpoint, "a", {"param": mem(6)})


# Damaged


def damage(path: Path, how: str) -> None:
    blob = path.read_bytes()
    middle = len(blob) // 2
    path.write_bytes(
        {
            "empty": b"",
            "truncated": blob[:middle],
            "a byte short": blob[:-1],
            "garbage": b"\x00\xff" * 40,
            "not the format": b"key,model\n1,2\n",
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "truncated", "a byte short", "garbage", "not the format"])
def test_damaged_rows_are_named(store, how):
    path = sorted(store.root.glob("*.parquet"))[1]
    damage(path, how)
    before = contents(store.root) | {LOCK: b""}
    for call in (store.frame, store.keys, store.compact):
        message = fails("is damaged", call)
        assert path.name in message
        assert "restore it from git, or sweep again, which sets it aside" in message
    assert contents(store.root) == before
    # The way out works: without the shard, the rest is there.
    path.unlink()
    assert len(store.frame()) == 2
    assert len(store.vectors()) == 2


@pytest.mark.parametrize("how", ["empty", "truncated", "a byte short", "garbage", "not the format", "missing"])
def test_damaged_vectors_are_named(store, how):
    path = sorted(store.root.glob("*.safetensors"))[1]
    path.unlink() if how == "missing" else damage(path, how)
    before = contents(store.root) | {LOCK: b""}
    for call in (store.vectors, store.compact):
        message = fails("is damaged", call)
        assert path.name in message
        assert "restore it from git, or sweep again, which sets it aside" in message
    assert contents(store.root) == before
    assert len(store.frame()) == 3


def test_flipped_bytes_never_change_a_number_unnoticed(store):
    path = store.compact()
    blob, frame = path.read_bytes(), store.frame()
    noticed = 0
    for offset in range(0, len(blob), len(blob) // 60):
        path.write_bytes(blob[:offset] + bytes([blob[offset] ^ 0x10]) + blob[offset + 1 :])
        try:
            found = store.frame()
        except CrammingError:
            noticed += 1
            continue
        pd.testing.assert_frame_equal(found, frame)
    assert noticed > 0


def test_parquet_of_another_kind_is_named(store):
    pd.DataFrame({"key": ["x"], "colour": ["red"]}).to_parquet(store.root / "other.parquet")
    for call in (store.frame, store.keys, store.compact):
        assert "other.parquet" in fails("lacks columns, such as accuracy", call)


# Not writable


def test_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("something else")
    before = contents(tmp_path)
    store = Store(tmp_path / "file" / "results")
    for call, arguments in ((store.prepare, []), (store.add, [row("key"), mem(0)])):
        message = fails("cannot be written", call, *arguments)
        assert str(store.root) in message
        assert "make it writable, or name another" in message
    assert contents(tmp_path) == before


def test_store_that_has_become_read_only(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    before = contents(store.root)
    # Root may write anything, so a read-only folder is acted out.
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    fails(r"cannot be written \(Permission denied\)", store.prepare)
    fails(r"cannot be written \(Permission denied\)", store.add, row("key"), mem(0))
    assert contents(store.root) == before
    assert len(store.frame()) == 3


def test_prepare_leaves_nothing_behind(store, tmp_path):
    before = contents(store.root)
    store.prepare()
    assert contents(store.root) == before
    Store(tmp_path / "a" / "b").prepare()
    assert contents(tmp_path / "a" / "b") == {}


# Set aside


@pytest.mark.parametrize("kind", ["parquet", "safetensors"])
@pytest.mark.parametrize("how", ["empty", "truncated", "a bit"])
def test_repair_sets_a_damaged_pair_aside_and_leaves_the_rest(store, capsys, kind, how):
    path = sorted(store.root.glob(f"*.{kind}"))[1]
    if how == "a bit":
        blob = bytearray(path.read_bytes())
        blob[-20] ^= 4  # in the last vector, or at the end of the footer
        path.write_bytes(blob)
    else:
        damage(path, how)
    before = contents(store.root)
    moved = store.repair()
    pair = {path.with_suffix(".parquet").name, path.with_suffix(".safetensors").name}
    assert {file.name for file in moved} == pair
    assert contents(store.root / DAMAGED) == {name: before[name] for name in pair}
    assert contents(store.root) == {name: blob for name, blob in before.items() if name not in pair} | {LOCK: b""}
    [line] = capsys.readouterr().err.splitlines()
    assert path.name in line
    assert len(store.keys()) == len(store.vectors()) == len(store.frame()) == 2
    assert store.repair() == []


def test_two_of_one_name_are_both_kept(store):
    path = sorted(store.root.glob("*.parquet"))[0]
    [key] = pq.read_table(path).column("key").to_pylist()
    for text in (b"one", b"two"):
        path.write_bytes(text)
        store.repair()
        store.add(row(key), mem(0))
    kept = {name: blob for name, blob in contents(store.root / DAMAGED).items() if name.endswith(".parquet")}
    assert kept == {path.name: b"one", f"{path.stem}-1.parquet": b"two"}


def test_repair_of_a_sound_store_writes_nothing(store):
    store.checkpoint("a" * 64, {"param": mem(6)})
    before = contents(store.root)
    assert store.repair() == []
    assert contents(store.root) == before
    assert Store(store.root / "none").repair() == []
    assert store.unfinished("a" * 64) is not None


def test_checkpoint_of_a_stored_run_goes(store):
    store.checkpoint("key-1", {"param": mem(6)})
    store.checkpoint("key-9", {"param": mem(6)})
    assert store.repair() == []
    assert store.unfinished("key-1") is None
    assert store.unfinished("key-9") is not None


def test_damaged_checkpoint_is_set_aside(store, capsys):
    store.checkpoint("a" * 64, {"param": mem(6)})
    [path] = (store.root / "unfinished").iterdir()
    damage(path, "truncated")
    assert [file.name for file in store.repair()] == [path.name]
    assert path.name in capsys.readouterr().err
    assert store.unfinished("a" * 64) is None


def test_damage_in_a_store_that_cannot_be_written_is_named(store, monkeypatch):
    path = sorted(store.root.glob("*.parquet"))[1]
    damage(path, "empty")
    before = contents(store.root)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    assert path.name in fails("Read-only file system.*is damaged", store.repair)
    assert contents(store.root) == before


def test_what_dead_writers_left_goes_and_what_others_write_stays(store):
    stem = next(store.root.glob("*.parquet")).stem
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    node = cramming.files.NODE
    gone = [f".{stem}.parquet.{node}-{dead}-0", f".probe.{node}-{dead}-3", f".{stem}.parquet.77"]
    kept = [f".{stem}.parquet.{node}-{os.getpid()}-9", f".{stem}.safetensors.0badcafe-{dead}-0", ".mine.txt.swp"]
    for name in gone + kept:
        (store.root / name).write_bytes(b"half")
    os.utime(store.root / gone[2], (0, 0))
    os.utime(store.root / kept[2], (0, 0))
    store.repair()
    assert {path.name for path in store.root.glob(".*")} == set(kept)


def test_what_a_writer_killed_while_it_tried_the_folder_left_goes(store, monkeypatch):
    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: os._exit(0))
        store.prepare()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    left = [path.name for path in store.root.glob(".*probe*")]
    assert len(left) == 1, left
    store.repair()
    assert not list(store.root.glob(".*probe*"))


# Other versions


def rewritten(store: Store, change) -> Path:
    path = sorted(store.root.glob("*.parquet"))[0]
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    return path


def test_older_version_without_columns_of_the_cost_is_read(store):
    rewritten(store, lambda table: table.drop_columns(["cpu_seconds", "trace_loss"]))
    frame = store.frame()
    assert list(frame.columns) == SCHEMA.names
    assert frame["cpu_seconds"].isna().sum() == 1
    assert store.repair() == []
    store.compact()
    assert store.frame()["cpu_seconds"].isna().sum() == 1


@pytest.mark.parametrize("name", NEEDED)
def test_without_what_decides_a_run_a_shard_is_damaged(store, name):
    path = rewritten(store, lambda table: table.drop_columns([name]))
    assert path.name in fails(f"lacks columns, such as {name}", store.frame)


def test_newer_version_is_refused_but_never_set_aside(store):
    path = rewritten(store, lambda table: table.append_column("colour", pa.array(["red"] * len(table))))
    for call in (store.frame, store.keys, store.repair):
        assert path.name in fails("does not know, such as 'colour'.*update cramming", call)
    assert path.exists()


def test_columns_of_another_type_or_with_gaps_are_damage(store):
    table = pq.read_table(sorted(store.root.glob("*.parquet"))[0])
    at = table.column_names.index("steps")
    for column, match in ((pa.array(["x"]), "not of type int64"),):
        rewritten(store, lambda table, column=column: table.set_column(at, "steps", column))
        fails(match, store.frame)
    rewritten(store, lambda _: table.set_column(0, "key", pa.array([None], pa.string())))
    fails("has gaps", store.frame)


# Bombs


def test_table_that_grows_when_it_is_decoded_is_refused(store, monkeypatch):
    monkeypatch.setattr(cramming.results.store, "read_table", partial(cramming.files.read_table, most=2**22))
    path = sorted(store.root.glob("*.parquet"))[0]
    table = pa.Table.from_pylist([row(f"key-{i}", passage="x" * 2**16) for i in range(2000)], SCHEMA)
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 2**20 < 2**26 < table.nbytes
    assert path.name in fails("come to more than", store.frame)
    table = pa.Table.from_pylist([row("key", token_ids=[7] * 2**21)], SCHEMA)
    pq.write_table(table, path, compression="zstd")
    assert path.name in fails("more than are read", store.frame)


def test_pipe_in_a_store_keeps_nobody_waiting(store):
    os.mkfifo(store.root / "0123456789abcdef.parquet")
    assert len(store.frame()) == 3
    path = sorted(store.root.glob("*.safetensors"))[0]
    path.unlink()
    os.mkfifo(path)
    fails("no regular file", store.vectors)


# Claims


def test_claimed_run_is_nobody_elses_until_it_is_given_back(store):
    one, two = Store(store.root), Store(store.root)
    with one.claim(["a", "b"]) as mine:
        assert mine == {"a", "b"}
        with two.claim(["b", "c"]) as others:
            assert others == {"c"}
    with two.claim(["a", "b", "key-1"]) as mine:
        assert mine == {"a", "b"}  # key-1 is stored


def test_claim_of_a_process_that_was_killed_is_given_back(store):
    ready, tell = os.pipe()
    if not (child := os.fork()):
        with store.claim(["a"]):
            os.write(tell, b"x")
            signal.pause()
    assert os.read(ready, 1) == b"x"
    with store.claim(["a", "b"]) as mine:
        assert mine == {"b"}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with store.claim(["a"]) as mine:
        assert mine == {"a"}
