"""A model in parts is the same model on the other side, and what is wrong with a part is one line."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cramming import cli
from cramming.errors import CrammingError
from cramming.models import PACKAGED, TINY_NAMES, build_tiny, load
from cramming.results import parts
from tests.conftest import model

BYTES = 50_000  # of a part, where a megabyte would take all of a tiny model


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "MB", BYTES)


@pytest.fixture
def parcel(tmp_path) -> Path:
    """tiny-llama in parts."""
    parts.write("tiny-llama", tmp_path / "parcel", 1)
    return tmp_path / "parcel"


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder of weights as from a hub: in several files, with its licence, and with a pickle beside them."""
    made, tokenizer = build_tiny("gpt_neox", seed=7)
    made.save_pretrained(tmp_path / "mine", max_shard_size="100KB")
    tokenizer.save_pretrained(tmp_path / "mine")
    torch.save(load_file(sorted((tmp_path / "mine").glob("*.safetensors"))[0]), tmp_path / "mine/pytorch_model.bin")
    for name in ("LICENSE", "README.md", "pytorch_model.bin.index.json", "code.py", ".hidden.json"):
        (tmp_path / "mine" / name).write_text('{"weight_map": {}}')
    return tmp_path / "mine"


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fails(match: str, call, *arguments) -> None:
    """The call says in one line what is wrong, and leaves nothing half done."""
    with pytest.raises(CrammingError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


# Round trips


@given(blob=st.binary(max_size=100), most=st.integers(1, 40))
def test_parts_are_the_file_again(blob, most, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    made = parts.cut(io.BytesIO(blob), folder, most)
    pieces = [(folder / part["name"]).read_bytes() for part in made["parts"]]
    assert b"".join(pieces) == blob
    assert all(1 <= len(piece) <= most for piece in pieces)
    assert (made["bytes"], made["sha256"]) == (len(blob), hashlib.sha256(blob).hexdigest())


@pytest.mark.parametrize("name", [*TINY_NAMES, "tiny-llama@first-1"])
def test_a_model_is_the_same_on_the_other_side(name, tmp_path):
    made = parts.write(name, tmp_path / "parcel", 1)
    assert len(made.parts) > 3
    assert max(path.stat().st_size for path in (tmp_path / "parcel").glob("*.bin")) <= BYTES
    assert left_in(tmp_path / "parcel") == {parts.MANIFEST, *made.parts}
    there = load(str(parts.join(tmp_path / "parcel")), device="cpu")
    assert there.digest == made.digest == (model(name) if name in TINY_NAMES else load(name, device="cpu")).digest
    assert there.name == made.name == name.replace("@", "-")
    assert there.tokenizer("né").input_ids == list("né".encode())


def test_a_folder_goes_as_it_lies_but_for_pickles_and_code(saved, tmp_path):
    made = parts.write(str(saved), tmp_path / "parcel", 1)
    target = parts.join(tmp_path / "parcel", tmp_path / "there" / "mine")
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    shards = {path.name for path in saved.glob("*.safetensors")} | {"model.safetensors.index.json", "LICENSE"}
    assert len(shards) > 3
    assert left_in(target) == wanted | shards
    assert all((target / name).read_bytes() == (saved / name).read_bytes() for name in left_in(target))
    assert made.licence == "see LICENSE, README.md"
    assert load(str(target), device="cpu").digest == load(str(saved), device="cpu").digest


def test_the_manifest_says_what_is_there(parcel):
    said = json.loads((parcel / parts.MANIFEST).read_text())
    assert (said["name"], said["digest"]) == ("tiny-llama", model("tiny-llama").digest)
    assert said["licence"] == "random weights, none"
    for file in said["files"]:
        pieces = [(parcel / part["name"]).read_bytes() for part in file["parts"]]
        for about, piece in [*zip(file["parts"], pieces, strict=True), (file, b"".join(pieces))]:
            assert (about["bytes"], about["sha256"]) == (len(piece), hashlib.sha256(piece).hexdigest())
    assert str(parcel.parent) not in (parcel / parts.MANIFEST).read_text()


def test_a_packaged_model_goes_with_its_licence_and_its_digest(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "models" / "smollm2-135m"
    made, tokenizer = build_tiny("llama")
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "digest.txt").write_text(model("tiny-llama").digest)
    monkeypatch.setenv("CRAMMING_CACHE", str(tmp_path / "cache"))
    found = parts.write("smollm2-135m", tmp_path / "parcel", 1)
    assert found.licence == "HuggingFaceTB, Apache-2.0 licence"
    # Put into the cache of the other machine, it has its own name there.
    monkeypatch.setenv("CRAMMING_CACHE", str(tmp_path / "other"))
    parts.join(tmp_path / "parcel", tmp_path / "other" / "models" / "smollm2-135m")
    assert load("smollm2-135m", device="cpu").digest == found.digest


# What is refused when writing


def test_gemma_has_to_be_fetched_there(tmp_path, gemma_file):
    fails(
        "under the Gemma Terms of Use.*cramming fetch gemma-3-270m --acc", parts.write, "gemma-3-270m", tmp_path / "p"
    )
    fails("tiny is under the Gemma Terms of Use.*from where you had it", parts.write, str(gemma_file), tmp_path / "p")
    assert left_in(tmp_path) == set()
    assert PACKAGED["gemma-3-270m"].terms


def test_a_folder_with_something_in_it_is_not_written_to(parcel):
    before = left_in(parcel)
    fails("parcel is there already and not empty", parts.write, "tiny-llama", parcel)
    parts.join(parcel)
    fails("tiny-llama is there already and not empty", parts.join, parcel)
    (parcel.parent / "file").write_text("kept")
    fails("file is there already", parts.join, parcel, parcel.parent / "file")
    assert left_in(parcel) == before | {"tiny-llama"}


def full(monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))


def test_a_full_disk_is_found_out_before_anything_is_written(parcel, monkeypatch):
    before = left_in(parcel.parent), left_in(parcel)
    full(monkeypatch)
    fails("disk .* is too full: 0 MB are free, .* MB are needed: make room", parts.write, "tiny-opt", parcel / "new")
    fails("disk .* is too full", parts.join, parcel)
    assert (left_in(parcel.parent), left_in(parcel)) == before


def test_a_disk_that_fills_up_leaves_nothing_half_done(parcel, monkeypatch):
    before = left_in(parcel.parent), left_in(parcel)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    fails(r"cannot be written \(No space left on device\): make room", parts.join, parcel)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    fails(r"cannot be written \(No space left on device\)", parts.write, "tiny-opt", parcel.parent / "new")
    assert (left_in(parcel.parent), left_in(parcel)) == before


def test_pickles_alone_are_not_exported(saved, tmp_path):
    for path in saved.glob("*.safetensors*"):
        path.unlink()
    fails("a pickle can run any code", parts.write, str(saved), tmp_path / "parcel")
    assert not (tmp_path / "parcel").exists()


# What is refused when joining


def test_parts_that_are_absent_are_counted_and_one_is_named(parcel):
    first, second, *others = sorted(parcel.glob("*.bin"))
    first.unlink()
    second.unlink()
    fails(f"lacks 2 of {len(others) + 2} parts, such as {first.name}: copy them there", parts.join, parcel)
    assert not (parcel / "tiny-llama").exists()


@pytest.mark.parametrize("change", ["a bit", "the end"])
def test_a_part_that_is_not_what_it_was_is_named(parcel, change):
    part = sorted(parcel.glob("*.bin"))[0]
    blob = bytearray(part.read_bytes())
    if change == "a bit":
        blob[0] ^= 1
        match = f"part {part.name} has SHA-256 [0-9a-f]*, expected {part.stem}"
    else:
        del blob[-1]
        match = f"part {part.name} has {len(blob):,} bytes, expected {len(blob) + 1:,}"
    part.write_bytes(blob)
    fails(f"{match}.*copy it again", parts.join, parcel)
    assert left_in(parcel) == {path.name for path in parcel.glob("*.*")}


def change(parcel: Path, edit) -> None:
    said = json.loads((parcel / parts.MANIFEST).read_text())
    edit(said)
    (parcel / parts.MANIFEST).write_text(json.dumps(said))


def weights(said: dict) -> dict:
    return next(file for file in said["files"] if file["name"].endswith(".safetensors"))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda said: said["files"].clear(), "is not valid .*at least 1 item"),
        (lambda said: said.pop("digest"), "is not valid"),
        (lambda said: said.update(name="../elsewhere"), "'../elsewhere' is no name of a file"),
        (lambda said: said["files"][0].update(name="/etc/hosts"), "'/etc/hosts' is no name of a file"),
        (lambda said: said["files"][0].update(name="a/b.json"), "'a/b.json' is no name of a file"),
        (lambda said: said["files"][0].update(name="pytorch_model.bin"), "is of a kind that is not read"),
        (lambda said: said["files"][0]["parts"][0].update(name="../x.bin"), "is not valid"),
        (lambda said: weights(said).update(bytes=3), "do not come to 3 bytes"),
        (lambda said: weights(said)["parts"].reverse(), "model.safetensors has SHA-256 .*not in the order"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(parcel, edit, match):
    change(parcel, edit)
    fails(match, parts.join, parcel)
    assert left_in(parcel) == {parts.MANIFEST, *(path.name for path in parcel.glob("*.bin"))}


def test_a_folder_without_a_manifest(tmp_path):
    fails(r"manifest.json cannot be read \(No such file.*as `cramming export --folder` wrote it", parts.join, tmp_path)


# The command


def test_the_command_writes_joins_and_the_model_crams(tmp_path, monkeypatch, capsys):
    def call(*words) -> str:
        monkeypatch.setattr("sys.argv", ["cramming", *map(str, words)])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    digest = model("tiny-llama").digest
    said = call("export", "--model", "tiny-llama", "--folder", "parcel", "--parts", 1)
    assert said.startswith(f"parcel: tiny-llama {digest}, 0.")
    assert said.endswith(" parts\n")
    shutil.move("parcel", "there")
    assert call("export", "--join", "there") == f"{Path('there/tiny-llama')}\n"
    assert "of 2 tokens decode" in call("cram", "--model", "there/tiny-llama", "--text", "it")
    assert call("export", "--join", "there", "--folder", "other") == "other\n"
    assert load("other", device="cpu").digest == digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--join", "nowhere"], "manifest.json cannot be read"),
        (["--model", "gemma-3-270m", "--folder", "parcel"], "Gemma Terms of Use"),
    ],
)
def test_the_command_says_a_mistake_in_one_line(words, message, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("export", *words)
    assert left_in(tmp_path) == set()
