"""Files that others wrote: read within bounds, refused in one line. Nothing that is read is ever run.

Sizes that a file declares are held against the file, or against a limit, before memory is taken for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors import SafetensorError, safe_open

from cramming.errors import CrammingError, first_line

MOST_TEXT = 2**24  # bytes of a text or of JSON
MOST_YAML = 2**17  # bytes of a plan: the parser is slow, about a second for so many
MOST_NODES = 50_000  # of a plan, aliases written out
MOST_HEADER = 2**24  # bytes of a safetensors header, and of a parquet footer
MOST_TABLE = 2**29  # bytes of a parquet file's columns, decoded
SCAN_VALUES = 2**16  # values that are decoded at once when a file is looked through
MOST_ROWS = 1024  # rows that are decoded before the limit is looked at again
# Processes of several machines may share a folder, and only on one's own can be told whether a process lives.
NODE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_COUNT = itertools.count()


def atomic(target: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, flushed, then renamed."""
    partial = temporary(target)
    try:
        partial.write_bytes(content)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def temporary(target: Path) -> Path:
    """A hidden name beside a file, which tells the machine and the process that it is for."""
    return target.with_name(f".{target.name}.{NODE}-{os.getpid()}-{next(_COUNT)}")


def read_text(path: Path, way_out: str, most: int = MOST_TEXT) -> str:
    """A text file in UTF-8.

    Args:
        path: A regular file.
        way_out: What to do if it cannot be read, for the message.
        most: Bytes that it may have.

    Raises:
        CrammingError: If it is no regular file, is larger, or is no UTF-8.
    """
    return _read(path, way_out, most, str)


def read_json(path: Path, way_out: str, most: int = MOST_TEXT) -> Any:
    """What a JSON file holds; arguments and errors as of `read_text`, and for what is no JSON or nested too deeply."""
    return _read(path, way_out, most, json.loads)


def read_yaml(path: Path, way_out: str, most: int = MOST_YAML) -> Any:
    """What a YAML file holds, plain values only; arguments and errors as of `read_text`, and for what is no YAML.

    Aliases count as often as they are used, so that a small file cannot stand for a large one.
    """
    return _read(path, way_out, most, _parse_yaml)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: If it is no regular file, its header is too large, or does not describe the bytes that follow.
        FileNotFoundError: If there is none.
    """
    with _tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, its weights unread; errors as of `read_tensors`."""
    with _tensors(path) as file:
        return _shapes(file)


@contextlib.contextmanager
def _tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, opened once its header and its shapes have been looked at; errors as of `read_tensors`."""
    size = _size(path)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > min(MOST_HEADER, size - 8):
        raise ValueError(f"its header claims {header:,} bytes, of {size:,} in all")
    try:
        # The library holds every declared size against the file.
        with safe_open(path, framework="pt") as tensors:
            _shapes(tensors)
            yield tensors
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(first_line(error)) from error


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_table(
    path: Path, columns: Callable[[pa.Schema], Collection[str]], most: int = MOST_TABLE
) -> tuple[pa.Table, pa.Schema]:
    """Columns of a parquet file, and its schema.

    Args:
        path: A regular file.
        columns: Given the file's schema, which columns to read; may raise what it likes.
        most: Bytes that the columns may come to.

    Raises:
        ValueError: If it is no regular file, is damaged, or says or comes to more than that.
        FileNotFoundError: If there is none.
    """
    _size(path)
    limits = {"thrift_string_size_limit": MOST_HEADER, "thrift_container_size_limit": MOST_HEADER}
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, **limits) as file:
            schema = file.schema_arrow
            wanted = list(columns(schema))
            # What pyarrow says of a column of a damaged file can end the process. A scan, in little memory, is refused
            # with an error where that would happen, so it comes first.
            file.scan_contents(columns=wanted, batch_size=SCAN_VALUES)
            longest = _declared(file.metadata, set(wanted), most)
            batches, total = [], 0
            # A page of a few bytes can stand for many equal texts, so what is decoded is counted too.
            rows = max(1, min(MOST_ROWS, most // longest))
            for batch in file.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
                total += batch.nbytes
                if total > most:
                    raise ValueError(f"its columns come to more than {most:,} bytes")
                batches.append(batch)
            if sum(map(len, batches)) != file.metadata.num_rows:
                raise ValueError("it has fewer rows than it says")
            part = pa.schema([schema.field(name) for name in wanted])
            table = pa.Table.from_batches(batches, None if batches else part).combine_chunks()
            table.validate(full=True)
            return table.select(wanted), schema
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, MemoryError, OverflowError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(first_line(error)) from error


def inside(name: object) -> bool:
    """Whether a path that a file names stays in the folder that it is told from: relative, and without ``..``.

    Examples:
        >>> inside("part-1.safetensors"), inside("../part-1.safetensors"), inside("/etc/hosts")
        (True, False, False)
    """
    if not isinstance(name, str) or not name or "\0" in name or name.startswith("~"):
        return False
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _read(path: Path, way_out: str, most: int, parse: Callable[[str], Any]) -> Any:
    try:
        size = _size(path)
        if size > most:
            raise ValueError(f"it has {size:,} bytes, {most:,} at most are read")
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise CrammingError(f"{path.name} cannot be read ({reason[:300]}): {way_out}") from error


def _size(path: Path) -> int:
    # A pipe would keep its reader waiting, and a device may never end.
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    return path.stat().st_size


def _parse_yaml(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _nodes(node, {}) > MOST_NODES:
            raise ValueError(f"with its aliases written out it has more than {MOST_NODES:,} entries")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _nodes(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Nodes below a node, each as often as it is reached."""
    if id(node) in known:
        if (count := known[id(node)]) is None:
            raise ValueError("an alias stands within what it stands for")
        return count
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = count = 1 + sum(map(partial(_nodes, known=known), children))
    return count


def _declared(metadata: pq.FileMetaData, names: set[str], most: int) -> int:
    """Hold the sizes that columns of a parquet file declare against a limit; the most bytes that one text can have."""
    wanted = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] in names]
    size, values, longest = 0, 0, 1
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        for column in wanted:
            chunk = about.column(column)
            if min(chunk.total_uncompressed_size, chunk.total_compressed_size, chunk.num_values) < 0:
                raise ValueError("it declares sizes below 0")
            size, values = size + chunk.total_uncompressed_size, values + chunk.num_values
            if chunk.physical_type == "BYTE_ARRAY":
                longest = max(longest, chunk.total_uncompressed_size)
    # A number takes up to 8 bytes once it is decoded.
    if size > most or values > most // 8 or metadata.num_rows > most // 8:
        raise ValueError(f"it declares {size:,} bytes and {values:,} values, more than are read")
    return longest
