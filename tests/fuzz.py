"""Damaged and hostile files for every reader: each must be read, or refused in one line, in little time and memory.

    python -m tests.fuzz 10000

Inputs are mutations of valid files: flipped bits, cuts, splices, rewritten headers and lengths. They are read in a
child process that may take 1 GiB of memory more than it has at the start; one input that takes 5 seconds ends it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch

from cramming.errors import CrammingError
from cramming.models import _gguf_kind, check_folder, load
from cramming.recipes import Recipe, recipe
from cramming.results.plans import PLANS, load_plan
from cramming.results.store import SCHEMA, Store
from cramming.studies import predict

SECONDS, MEMORY = 5.0, 2**30
NUMBERS = (0, 1, 7, 8, 127, 255, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
JUNK = (b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b"\x00" * 64, b"1e999", b"-1", b"NaN", b"9" * 5000, b'"../../x"')


def mutate(blob: bytes, draw: random.Random, other: bytes) -> bytes:
    """A valid file with one to four things wrong."""
    made = bytearray(blob)
    for _ in range(draw.randint(1, 4)):
        at, kind = draw.randrange(len(made) + 1), draw.randrange(8)
        # Headers are at either end, and most of what can go wrong is in them.
        if draw.random() < 0.5:
            at = min(len(made), draw.choice((draw.randrange(64), max(0, len(made) - 1 - draw.randrange(400)))))
        if kind == 0:
            for _ in range(draw.randint(1, 8)):
                if made:
                    made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = draw.randrange(256)
        elif kind == 2:
            del made[at:]
        elif kind == 3:
            del made[at : at + draw.randint(1, 64)]
        elif kind == 4:
            begin = draw.randrange(len(other))
            made[at : at + draw.randint(0, 64)] = other[begin : begin + draw.randint(1, 256)]
        elif kind == 5:
            made[at : at + 8] = struct.pack("<Q", draw.choice(NUMBERS))
        elif kind == 6:
            made[at:at] = draw.choice(JUNK)
        else:
            made[at : at + 4] = struct.pack("<I", draw.choice(NUMBERS) & 0xFFFFFFFF)
    return bytes(made)


class Readers:
    """Valid files of every kind in a folder, and what reads each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")
        examples = {"string": "words", "int64": 7, "double": 0.25, "bool": True, "float": 0.5, "int32": 3}
        for i in range(3):
            row = {
                f.name: [examples[str(f.type.value_type)]] * 3
                if str(f.type) not in examples
                else examples[str(f.type)]
                for f in SCHEMA
            }
            how = recipe("best").model_dump_json()
            self.store.add(row | {"key": f"{i:064d}", "recipe_json": how}, torch.full((1, 8), float(i)))
        self.store.checkpoint("c" * 64, {"param": torch.ones(2, 8), "numbers": torch.ones(7).double()})
        lm = load("tiny-llama", device="cpu")
        self.folder = root / "model"
        lm.model.save_pretrained(self.folder)
        self.estimates = root / "estimates"
        self.estimates.mkdir()
        (self.estimates / "m.json").write_bytes((predict.ESTIMATES / "smollm2-135m.json").read_bytes())
        (root / "plan.yaml").write_bytes((PLANS / "architectures.yaml").read_bytes())
        (root / "recipe.json").write_text(recipe("horizon").model_dump_json())
        self._gguf(root / "model.gguf")
        shard = sorted(self.store.root.glob("*.parquet"))[1]
        vectors, state = shard.with_suffix(".safetensors"), next((self.store.root / "unfinished").iterdir())
        self.kinds: dict[str, tuple[Path, Callable[[], object]]] = {
            "rows": (shard, self._store),
            "vectors": (vectors, self._store),
            "checkpoint": (state, lambda: self.store.unfinished("c" * 64)),
            "recipe": (root / "recipe.json", self._recipe),
            "plan": (root / "plan.yaml", lambda: load_plan(str(root / "plan.yaml"))),
            "estimate": (self.estimates / "m.json", lambda: predict.read("m", self.estimates)),
            "config": (self.folder / "config.json", lambda: check_folder(self.folder, "x")),
            "weights": (self.folder / "model.safetensors", lambda: check_folder(self.folder, "x")),
            "gguf": (root / "model.gguf", lambda: self._kind(root / "model.gguf")),
        }
        self.valid = {name: path.read_bytes() for name, (path, _) in self.kinds.items()}
        # Rows in an older version's shard name no digest, so the vectors are read on their own merits.
        self.undigested = self._undigested(shard)

    def try_one(self, kind: str, draw: random.Random) -> str:
        """Read one mutation: read, refused, or what went wrong."""
        path, read = self.kinds[kind]
        other = self.valid[draw.choice(list(self.valid))]
        rows = self.kinds["rows"][0]
        if kind == "vectors":
            rows.write_bytes(draw.choice((self.undigested, self.valid["rows"])))
        path.write_bytes(mutate(self.valid[kind], draw, other))
        try:
            read()
            return "read"
        except CrammingError as error:
            return "refused" if "\n" not in str(error) and len(str(error)) < 2000 else f"message: {error!r}"
        except BaseException:
            return f"traceback: {traceback.format_exc()}"
        finally:
            path.write_bytes(self.valid[kind])
            rows.write_bytes(self.valid["rows"])

    def _store(self) -> None:
        said = None
        for read in (self.store.keys, self.store.frame, self.store.vectors):
            try:
                read()
            except CrammingError as error:
                said = error
        if said:
            raise said

    def _recipe(self) -> None:
        Recipe.model_validate_json((self.root / "recipe.json").read_bytes())

    def _kind(self, path: Path) -> None:
        try:
            _gguf_kind(path)
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # as `load` does
            raise CrammingError("damaged") from error

    @staticmethod
    def _gguf(path: Path) -> None:
        from gguf import GGUFWriter

        writer = GGUFWriter(path, "llama")
        writer.add_file_type(3)
        writer.add_token_list([f"t{i}" for i in range(40)])
        writer.add_tensor("token_embd.weight", torch.ones(8, 32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    @staticmethod
    def _undigested(shard: Path) -> bytes:
        file = io.BytesIO()
        pq.write_table(pq.read_table(shard).replace_schema_metadata(), file, write_page_checksum=True)
        return file.getvalue()


def fuzz(root: Path, count: int, seed: int = 0, only: str | None = None) -> dict[str, object]:
    """Read so many damaged files, each kind in turn, or one kind alone.

    Returns:
        inputs, and how many were read and refused; slowest in seconds, and the most memory above the start in MiB.

    Raises:
        AssertionError: If a reader let another exception through than CrammingError, took too long or died.
    """
    readers, log = Readers(root), root / "log"
    log.touch()
    if not (child := os.fork()):
        status = 1
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                _child(readers, log, count, seed, only)
            status = 0
        except BaseException:
            log.open("a").write(json.dumps(["?", traceback.format_exc(), 0, 0]) + "\n")
        finally:
            os._exit(status)
    size, since = 0, time.monotonic()
    while not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.05)
        if log.stat().st_size > size:
            size, since = log.stat().st_size, time.monotonic()
        if time.monotonic() - since > 30:  # of wall time; the child counts 5 of its own
            os.kill(child, 9)
            os.waitpid(child, 0)
            break
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    wrong = [line for line in lines if line[1] not in ("read", "refused") or line[2] > SECONDS]
    assert not wrong, f"{len(wrong)} of {len(lines)} inputs, the first: {wrong[0][0]} {wrong[0][1]}"
    assert len(lines) == count, f"input {len(lines)} of {count} hung or killed the reader"
    came = collections.Counter(line[1] for line in lines)
    slowest, most = max(line[2] for line in lines), max(line[3] for line in lines)
    return {"inputs": count, **came, "slowest": round(slowest, 2), "MiB": round(most)}


def _child(readers: Readers, log: Path, count: int, seed: int, only: str | None) -> None:
    start = _size("VmSize")
    resident = _size("VmHWM")
    resource.setrlimit(resource.RLIMIT_AS, (start + MEMORY, start + MEMORY))
    kinds = [only] if only else list(readers.kinds)
    with log.open("a", buffering=1) as out:
        for i in range(count):
            kind, begin = kinds[i % len(kinds)], time.process_time()
            outcome = readers.try_one(kind, random.Random(f"{seed}/{i}"))
            above = (_size("VmHWM") - resident) / 2**20
            out.write(json.dumps([f"{kind} {seed}/{i}", outcome, time.process_time() - begin, above]) + "\n")


def _size(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind of file, such as rows")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(fuzz(Path(folder), asked.count, asked.seed, asked.only))
    sys.exit(0)
