"""Results: tidy parquet, one row a run, with the vectors beside it in safetensors, both keyed by content.

A shard is a pair of files with one stem. The vectors are written first and the rows last, each to a temporary name
that is flushed and renamed, so a reader sees whole shards only, and a kill at any moment loses no run but those in
flight. The rows carry the SHA-256 of their vectors' file, so that damage to either is found on reading.

Several processes may write to one store at once: each run is claimed by a lock that the kernel gives back when its
holder ends. Nothing here depends on what a clock says.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from cramming.errors import CrammingError
from cramming.files import NODE, atomic, read_table, read_tensors, temporary

PATH = "/path"  # what the name of a run's path ends in, after its key
DAMAGED = "damaged"  # folder of a store for what was set aside
LOCK = ".lock"  # empty file of a store whose bytes stand for claims
COMPACT_ROWS = 5000  # of a shard, so that what `compact` writes stays far below what is read at most
LEFTOVER_SECONDS = 24 * 3600.0  # after it, a temporary file of another machine counts as left behind
_VECTORS = b"vectors_sha256"  # in the metadata of the rows
_ALL = 2**62  # the byte of the lock that stands for the whole store; those of runs lie below
_T = TypeVar("_T")
_text, _int, _float, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_list = {"flag": pa.list_(pa.bool_()), "float": pa.list_(pa.float32()), "int": pa.list_(pa.int32())}
SCHEMA = pa.schema(
    [
        # what decides the result
        ("key", _text),
        ("kind", _text),  # cram: the whole passage; horizon: its longest exact prefix
        ("recipe", _text),
        ("recipe_json", _text),
        ("model", _text),
        ("model_digest", _text),
        ("source", _text),
        ("passage", _text),
        ("passage_digest", _text),
        ("offered", _int),  # tokens of the passage
        ("n_vectors", _int),
        ("seed", _int),
        ("dtype", _text),
        # what came out
        ("length", _int),  # tokens: the passage, or the horizon
        ("ended", _text),
        ("score_first", _flag),
        ("accuracy", _float),  # teacher-forced share of scored tokens, as the recipe measures it
        ("correct_teacher", _int),  # scored tokens right, teacher-forced with the kept vector
        ("correct_greedy", _int),  # scored tokens before the first error of free decoding
        ("exact", _flag),  # certified; an unscored token 0 is given
        ("margin", _float),  # logits
        ("correct_with", _int),  # scored tokens right with mem
        ("correct_without", _int),
        ("nats_with", _float),  # summed over scored tokens
        ("nats_without", _float),
        ("token_ids", _list["int"]),  # the passage
        ("token_correct", _list["flag"]),  # each token teacher-forced with the kept vector
        ("token_nats_with", _list["float"]),
        ("token_nats_without", _list["float"]),
        # what it cost
        ("steps", _int),
        ("starts", _int),  # from noise, the first included
        ("token_passes", _int),
        ("seconds", _float),  # wall time, shared out among the passages of a batch by their tokens
        ("cpu_seconds", _float),
        ("batch", _int),
        ("threads", _int),
        ("device", _text),
        ("versions", _text),
        ("trace_step", _list["int"]),
        ("trace_length", _list["int"]),
        ("trace_loss", _list["float"]),
        ("trace_accuracy", _list["float"]),
        ("trace_token_passes", _list["int"]),
    ]
)


# Older versions may lack columns of what a run cost, and later versions' columns; all before decides or is the result.
NEEDED = tuple(SCHEMA.names[: SCHEMA.names.index("steps")])


class Damaged(CrammingError):
    """A file of a store is damaged.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: object) -> None:
        self.path, self.reason = path, " ".join(str(reason).split())[:200]
        super().__init__(
            f"{path.name} in {path.parent.name} is damaged ({self.reason}): restore it from git, "
            "or sweep again, which sets it aside and runs what it held"
        )


def run_key(decides: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the canonical JSON of what decides a result.

    Examples:
        >>> run_key({"b": 1, "a": 2}) == run_key({"a": 2, "b": 1})
        True
    """
    canonical = json.dumps(decides, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Store:
    """A folder of shards.

    Examples:
        >>> from cramming.paths import RESULTS
        >>> store = Store(RESULTS / "laptop")  # what the book shows
        >>> bool(store.frame()["exact"].any())
        True
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def add(self, row: Mapping[str, Any], mem: torch.Tensor, path: torch.Tensor | None = None) -> None:
        """Write one run and its vectors as a shard of their own.

        Args:
            row: As `SCHEMA` has it.
            mem: The kept vectors, shape (n_vectors, d).
            path: Those kept on the way, shape (n, n_vectors, d); see `cramming.engine.Cram`.

        Raises:
            CrammingError: If the store cannot be written. Nothing that it holds is touched.
        """
        key = str(row["key"])
        self._write([dict(row)], {key: mem} | ({} if path is None else {key + PATH: path}))
        self._unfinished(key).unlink(missing_ok=True)

    def checkpoint(self, key: str, state: Mapping[str, torch.Tensor]) -> None:
        """Keep the state of a run under way, until its row is added.

        Raises:
            CrammingError: If the store cannot be written.
        """
        # Cloned, since safetensors refuses tensors that share memory, as the vectors trained and kept can.
        blob = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
        target = self._unfinished(key)
        with _writing(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic(target, blob)

    def unfinished(self, key: str) -> dict[str, torch.Tensor] | None:
        """The state that `checkpoint` was last given for a run, None if there is none.

        Raises:
            Damaged: If the file is damaged; `discard` sets it aside.
        """
        path = self._unfinished(key)
        try:
            return read_tensors(path)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise Damaged(path, error) from error

    def discard(self, key: str, reason: object) -> None:
        """Set the checkpoint of a run aside, with a line on stderr: the run begins anew.

        Raises:
            CrammingError: If the store cannot be written.
        """
        self._set_aside([self._unfinished(key)], reason)

    def prepare(self) -> None:
        """Make the folder, and find out now and not after hours of work if it cannot be written.

        Raises:
            CrammingError: If the store cannot be written.
        """
        with _writing(self.root):
            probe = temporary(self.root / "probe")
            probe.touch()
            probe.unlink()

    @contextlib.contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[set[str]]:
        """Take runs for this process until the block ends, so that no other sweep of the store runs them too.

        Yields:
            Those of `keys` that were taken: not those that another process has, or has stored by now.

        Raises:
            CrammingError: If the store cannot be written.
        """
        with self._locks() as take:
            mine = {key for key in keys if take(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16), False)}
            try:
                done = self.keys()
            except Damaged:
                self.repair()
                done = self.keys()
            yield mine - done

    def repair(self) -> list[Path]:
        """Set damaged files aside, with a line on stderr each, so that what they held is run again.

        A shard goes as a pair. What killed writers left is deleted: temporary files, and checkpoints of stored runs.
        A sound store is not written to.

        Returns:
            Where the files went, in `damaged/`.

        Raises:
            CrammingError: If a damaged file cannot be moved, or a shard is of a newer version.
        """
        _drop_leftovers([self.root, self.root / "unfinished"])
        moved = []
        for path in self._shards():
            try:
                _verify(path, _stamp(path), _stamp(_beside(path)))
            except Damaged as error:
                try:
                    # Another process may have merged or moved it meanwhile, so it is looked at again with others out.
                    with self._alone():
                        if path.exists() and not _sound(path):
                            moved += self._set_aside([path, _beside(path)], error.reason)
                except CrammingError as refused:
                    raise CrammingError(f"{refused}; {error}") from error
        states = sorted((self.root / "unfinished").glob("*.safetensors"))
        done = {self._unfinished(key) for key in self.keys()} if states else set()
        for path in states:
            if path in done:  # killed after the row was stored, and before this was deleted
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            with contextlib.suppress(FileNotFoundError):
                try:
                    read_tensors(path)
                except (ValueError, OSError) as error:
                    moved += self._set_aside([path], error)
        return moved

    def keys(self) -> set[str]:
        """Keys of all runs.

        Raises:
            Damaged: If a shard is damaged.
        """
        return set().union(*self._each(lambda path: _read_rows(path, ["key"])[0].column("key").to_pylist()))

    def frame(self) -> pd.DataFrame:
        """All runs, one row each, sorted by what they are; an empty frame with all columns if there are none.

        Raises:
            CrammingError: If a shard is damaged, or of another version; the message names the file.
        """
        tables = self._each(lambda path: _read_rows(path)[0])
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        order = ["kind", "recipe", "model", "source", "offered", "passage", "n_vectors", "seed", "key"]
        return table.to_pandas().drop_duplicates("key", keep="last").sort_values(order, ignore_index=True)

    def vectors(self) -> dict[str, torch.Tensor]:
        """The kept vectors of all runs by key, float32, each (n_vectors, d).

        Raises:
            CrammingError: As `frame` does.
        """
        return {name: tensor for name, tensor in self._tensors().items() if not name.endswith(PATH)}

    def paths(self) -> dict[str, torch.Tensor]:
        """The vectors kept on the way, by key, of the runs that have them: float32, each (n, n_vectors, d).

        Raises:
            CrammingError: As `frame` does.
        """
        return {name.removesuffix(PATH): path for name, path in self._tensors().items() if name.endswith(PATH)}

    def compact(self) -> Path | None:
        """Merge all shards into one, or into a few large ones; the old ones go only once the new ones are whole.

        Returns:
            The first of the new shards.

        Raises:
            CrammingError: If a shard is damaged or the store cannot be written. Nothing that it holds is touched.
        """
        if len(shards := self._shards()) < 2:
            return shards[0] if shards else None
        with self._alone():
            # What others add from here on is not in this list, and stays.
            old = self._shards()
            rows = {row["key"]: row for path in old for row in _read_rows(path)[0].to_pylist()}
            tensors: dict[str, torch.Tensor] = {}
            for path in old:
                tensors |= _read_shard(path)
            if missing := set(rows) - set(tensors):
                raise CrammingError(
                    f"{self.root} lacks the vectors of {len(missing)} runs, such as {min(missing)}: restore them"
                )
            new = []
            for keys in _batched(sorted(rows)):
                kept = {name: tensors[name] for key in keys for name in (key, key + PATH) if name in tensors}
                new.append(self._write([rows[key] for key in keys], kept, merged=True))
            for path in old:
                if path not in new:
                    # The rows first: rows without vectors would look like damage.
                    path.unlink(missing_ok=True)
                    _beside(path).unlink(missing_ok=True)
        return new[0]

    def _tensors(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for tensors in self._each(_read_shard):
            found |= tensors
        return found

    def _unfinished(self, key: str) -> Path:
        return self.root / "unfinished" / f"{key[:16]}.safetensors"

    def _shards(self) -> list[Path]:
        return sorted(path for path in self.root.glob("*.parquet") if path.is_file())

    def _each(self, read: Callable[[Path], _T]) -> list[_T]:
        """What `read` makes of each shard; from the start again if some were merged meanwhile."""
        while True:
            shards = self._shards()
            try:
                return [read(path) for path in shards]
            except Damaged:
                if all(path.exists() for path in shards):
                    raise

    def _write(self, rows: list[dict[str, Any]], vectors: Mapping[str, torch.Tensor], merged: bool = False) -> Path:
        unknown = set(rows[0]) ^ set(SCHEMA.names)
        if unknown:
            raise CrammingError(
                f"columns {sorted(unknown)} do not fit the store's schema: see cramming.results.store.SCHEMA"
            )
        table = pa.Table.from_pylist([{key: _plain(value) for key, value in row.items()} for row in rows], SCHEMA)
        blob = save({key: mem.detach().float().contiguous().cpu() for key, mem in vectors.items()})
        digest = hashlib.sha256(blob).hexdigest()
        # A merged shard is never written over another: a kill between the two files would part many rows from theirs.
        stem = run_key({"keys": sorted(row["key"] for row in rows)} | ({"vectors": digest} if merged else {}))[:16]
        table = table.replace_schema_metadata({_VECTORS: digest})
        target = self.root / f"{stem}.parquet"
        # In memory first: on a full disk pyarrow would leave its file open.
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        with _writing(self.root):
            atomic(_beside(target), blob)
            atomic(target, sink.getvalue())
        return target

    def _set_aside(self, files: Sequence[Path], reason: object) -> list[Path]:
        """Move files into `damaged/`; those that are gone already are none of ours."""
        folder, moved = self.root / DAMAGED, []
        try:
            for path in files:
                folder.mkdir(exist_ok=True)
                target = next(to for to in _names(folder, path) if not to.exists())
                with contextlib.suppress(FileNotFoundError):
                    moved.append(path.rename(target))
        except OSError as error:
            raise CrammingError(
                f"{files[0].name} cannot be set aside ({error.strerror or error}): make the store {self.root} writable"
            ) from error
        if moved:
            names = " and ".join(path.name for path in moved)
            _say(f"{names}: damaged ({reason}), now in {folder}; what was in it is run again")
        return moved

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process merges shards or sets them aside, and keep others from it."""
        with self._locks() as take:
            take(_ALL, True)
            yield

    @contextlib.contextmanager
    def _locks(self) -> Iterator[Callable[[int, bool], bool]]:
        """What takes one byte of the store's lock, and perhaps waits for it; all are given back at the end."""
        with _writing(self.root):
            file = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield lambda place, wait: _lock(file, place, wait)
        finally:
            os.close(file)


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Make the store's folder, and say in one line if it cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CrammingError(
            f"the store {root} cannot be written ({error.strerror or error}): make it writable, or name another"
        ) from error


_LEFTOVER = re.compile(r"\.(probe|[0-9a-zA-Z_-]+\.(parquet|safetensors))\.[0-9a-f-]+")


def _drop_leftovers(folders: Iterable[Path]) -> None:
    """Delete the temporary files of processes that are dead; of those on other machines, if they are old."""
    for path in itertools.chain.from_iterable(folder.glob(".*.*") for folder in folders):
        if not _LEFTOVER.fullmatch(path.name):
            continue
        node, _, rest = path.name.rpartition(".")[2].partition("-")
        pid = rest.partition("-")[0]
        with contextlib.suppress(OSError):
            if (node == NODE and pid.isdigit() and not _alive(int(pid))) or (
                node != NODE and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
            ):
                path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


# Locks that belong to an open file rather than to a process keep threads apart too. Elsewhere than on Linux their
# layout differs, and the older kind has to do.
_OPEN_FILE_LOCKS = sys.platform == "linux" and sys.maxsize > 2**32


def _lock(file: int, place: int, wait: bool) -> bool:
    """Take one byte of an open file for oneself; False if another has it."""
    try:
        if _OPEN_FILE_LOCKS:
            command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
            fcntl.fcntl(file, command, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        _no_locks(str(error.strerror))
    return True


@lru_cache
def _no_locks(reason: str) -> None:
    """Say once that claims do not work here."""
    _say(f"this file system has no locks ({reason}): two sweeps at once may do a run twice, so give each its --part")


def _say(line: str) -> None:
    print(f"cramming: {line}", file=sys.stderr, flush=True)


def _beside(path: Path) -> Path:
    """The vectors' file of a shard."""
    return path.with_suffix(".safetensors")


def _names(folder: Path, path: Path) -> Iterator[Path]:
    """Names for a file in another folder, in the order of preference."""
    yield folder / path.name
    yield from (folder / f"{path.stem}-{i}{path.suffix}" for i in itertools.count(1))


def _batched(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[i : i + COMPACT_ROWS] for i in range(0, len(keys), COMPACT_ROWS)]


def _read_rows(path: Path, columns: Collection[str] | None = None) -> tuple[pa.Table, str | None]:
    """Rows of a shard, in the columns of `SCHEMA` or some of them, and the digest of their vectors if it has one."""

    def present(schema: pa.Schema) -> list[str]:
        names = set(schema.names)
        if len(names) < len(schema.names) or (lacking := sorted(set(NEEDED) - names)):
            raise ValueError(f"it lacks columns, such as {lacking[0]}" if lacking else "it has columns twice")
        if unknown := sorted(names - set(SCHEMA.names)):
            raise CrammingError(
                f"{path.name} in {path.parent.name} has columns that this version does not know, such as "
                f"{unknown[0][:40]!r}: it is from a newer one, so update cramming"
            )
        for name in names:
            if schema.field(name).type != SCHEMA.field(name).type:
                raise ValueError(f"its column {name} is not of type {SCHEMA.field(name).type}")
        return [name for name in SCHEMA.names if name in names and (columns is None or name in columns)]

    try:
        table, schema = read_table(path, present)
        for name in set(NEEDED) & set(table.column_names):
            if table.column(name).null_count:
                raise ValueError(f"its column {name} has gaps")
        for field in SCHEMA:
            if field.name not in table.column_names and (columns is None or field.name in columns):
                table = table.append_column(field, pa.nulls(len(table), field.type))
        wanted = pa.schema([field for field in SCHEMA if columns is None or field.name in columns])
        table = table.select(wanted.names).replace_schema_metadata()
        if table.schema != wanted:
            table = table.cast(wanted)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise Damaged(path, error) from error
    digest = (schema.metadata or {}).get(_VECTORS)
    return table, None if digest is None else digest.decode("ascii", "replace")


def _read_vectors(path: Path, digest: str | None) -> dict[str, torch.Tensor]:
    try:
        tensors = read_tensors(path)
        if digest is not None:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ValueError("its SHA-256 is not the one that its rows name")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or tensor.dim() != 2 + name.endswith(PATH):
                raise ValueError(f"{name[:80]!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, no float32 vectors")
        return tensors
    except FileNotFoundError as error:
        raise Damaged(path, "it is missing") from error
    except (ValueError, OSError) as error:
        raise Damaged(path, error) from error


def _read_shard(path: Path) -> dict[str, torch.Tensor]:
    """The vectors of a shard, by the path of its rows."""
    return _read_vectors(_beside(path), _read_rows(path, ["key"])[1])


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced; it is only ever compared for being the same."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return (about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _verify(path: Path, rows: tuple[int, ...], vectors: tuple[int, ...]) -> None:
    """Read a shard in full, once for each state of its files."""
    table, digest = _read_rows(path)
    if missing := set(table.column("key").to_pylist()) - set(_read_vectors(_beside(path), digest)):
        raise Damaged(_beside(path), f"it lacks the vectors of {len(missing)} runs, such as {min(missing)}")


def _sound(path: Path) -> bool:
    try:
        _verify.__wrapped__(path, (), ())
    except Damaged:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
