"""Results: tidy parquet, one row a run, with the vectors beside it in safetensors, both keyed by content.

A shard is a pair of files with one stem. The vectors are written first and the rows last, each to a temporary name
that is flushed and renamed, so a reader sees whole shards only, and a kill at any moment loses no run but those in
flight.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cramming.errors import CrammingError

_DATA = Path(__file__).resolve().parent.parent / "data"
RESULTS = Path(os.environ.get("CRAMMING_RESULTS") or _DATA / "results")  # one store a plan
BENCHMARKS = _DATA / "benchmarks"  # what benchmarks/ measured

PATH = "/path"  # what the name of a run's path ends in, after its key

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
        self._unfinished(str(row["key"])).unlink(missing_ok=True)

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
            _atomic(target, lambda path: path.write_bytes(blob))

    def unfinished(self, key: str) -> dict[str, torch.Tensor] | None:
        """The state that `checkpoint` was last given for a run, None if there is none.

        Raises:
            CrammingError: If the file is damaged.
        """
        path = self._unfinished(key)
        return _read_vectors(path) if path.exists() else None

    def prepare(self) -> None:
        """Make the folder, and find out now and not after hours of work if it cannot be written.

        Raises:
            CrammingError: If the store cannot be written.
        """
        with _writing(self.root):
            _atomic(self.root / ".probe", Path.touch)
            (self.root / ".probe").unlink(missing_ok=True)

    def keys(self) -> set[str]:
        """Keys of all runs."""
        return set().union(*(_read_table(path, ["key"]).column("key").to_pylist() for path in self._shards()))

    def frame(self) -> pd.DataFrame:
        """All runs, one row each, sorted by what they are; an empty frame with all columns if there are none.

        Raises:
            CrammingError: If a shard is damaged; the message names the file.
        """
        tables = [_read_table(path) for path in self._shards()]
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        order = ["kind", "recipe", "model", "source", "offered", "passage", "n_vectors", "seed", "key"]
        return table.to_pandas().drop_duplicates("key", keep="last").sort_values(order, ignore_index=True)

    def vectors(self) -> dict[str, torch.Tensor]:
        """The kept vectors of all runs by key, float32, each (n_vectors, d)."""
        return {name: tensor for name, tensor in self._tensors().items() if not name.endswith(PATH)}

    def paths(self) -> dict[str, torch.Tensor]:
        """The vectors kept on the way, by key, of the runs that have them: float32, each (n, n_vectors, d)."""
        return {name.removesuffix(PATH): path for name, path in self._tensors().items() if name.endswith(PATH)}

    def compact(self) -> Path | None:
        """Merge all shards into one; the old ones go only once the new one is whole."""
        old = self._shards()
        if len(old) < 2:
            return old[0] if old else None
        rows, tensors = {row["key"]: row for path in old for row in _read_table(path).to_pylist()}, self._tensors()
        missing = set(rows) - set(tensors)
        if missing:
            raise CrammingError(
                f"{self.root} lacks the vectors of {len(missing)} runs, such as {min(missing)}: restore them"
            )
        kept = {name: tensor for name, tensor in tensors.items() if name.removesuffix(PATH) in rows}
        new = self._write(list(rows.values()), kept)
        for path in old:
            if path != new:
                path.unlink()
                path.with_suffix(".safetensors").unlink(missing_ok=True)
        return new

    def _tensors(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for path in self._shards():
            found |= _read_vectors(path.with_suffix(".safetensors"))
        return found

    def _unfinished(self, key: str) -> Path:
        return self.root / "unfinished" / f"{key[:16]}.safetensors"

    def _shards(self) -> list[Path]:
        return sorted(self.root.glob("*.parquet"))

    def _write(self, rows: list[dict[str, Any]], vectors: Mapping[str, torch.Tensor]) -> Path:
        unknown = set(rows[0]) ^ set(SCHEMA.names)
        if unknown:
            raise CrammingError(f"columns {sorted(unknown)} do not fit the store's schema: see cramming.store.SCHEMA")
        table = pa.Table.from_pylist([{key: _plain(value) for key, value in row.items()} for row in rows], SCHEMA)
        stem = run_key({"keys": sorted(row["key"] for row in rows)})[:16]
        target = self.root / f"{stem}.parquet"
        blob = save({key: mem.detach().float().contiguous().cpu() for key, mem in vectors.items()})
        with _writing(self.root):
            _atomic(target.with_suffix(".safetensors"), lambda path: path.write_bytes(blob))
            _atomic(target, lambda path: pq.write_table(table, path, compression="zstd", write_page_checksum=True))
        return target


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


def _atomic(target: Path, write: Callable[[Path], object]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _read_table(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        if file.schema_arrow != SCHEMA:
            raise pa.ArrowInvalid("its columns are not those of this version")
        return file.read(None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise CrammingError(
            f"{path.name} in {path.parent.name} is damaged ({str(error).splitlines()[0]}): "
            "restore it from git, or delete it and sweep again"
        ) from error


def _read_vectors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CrammingError(
            f"{path.name} in {path.parent.name} is damaged or missing ({str(error).splitlines()[0]}): "
            "restore it from git, or delete the shard and sweep again"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
