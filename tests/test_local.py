"""The paper's plan on weights that lie here as the hub lays them out: no network, rows of the paper's models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from cramming import models
from cramming.errors import CrammingError
from cramming.models import build_tiny, load
from cramming.results import plans
from cramming.results.check import recheck
from cramming.results.plans import load_plan, names_of
from cramming.results.store import Store

# One of the paper's models for each architecture, and how large a file of its weights may be: some come in several.
LAID_OUT = {
    "gpt_neox": ("EleutherAI/pythia-160m", "Pythia-160M", "100KB"),
    "opt": ("facebook/opt-1.3b", "OPT-1.3B", "1GB"),
    "olmo": ("allenai/OLMo-1B-0724-hf", "OLMo-1B", "50KB"),
    "mamba": ("state-spaces/mamba-130m-hf", "Mamba-130M", "1GB"),
    "llama": ("meta-llama/Llama-3.2-1B", "Llama-3.2-1B", "100KB"),
}
PASSES = 40  # of a horizon, in place of two million


def lay_out(place: Path, architecture: str) -> Path:
    """A tiny model in a folder owner/name, as the hub has its files."""
    hub_id, _, size = LAID_OUT[architecture]
    model, tokenizer = build_tiny(architecture)
    model.save_pretrained(place / hub_id, max_shard_size=size)
    tokenizer.save_pretrained(place / hub_id)
    (place / hub_id / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return place / hub_id


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, without a network, with the paper's plan cut short and texts for it."""
    short = yaml.safe_load((plans.PLANS / "paper.yaml").read_text())
    for experiment in short["experiments"]:
        grows = experiment["kind"] == "horizon"
        experiment["lengths"] = [24] if grows else [4, 6]
        growth = {"max_token_passes": PASSES, "growth": {"start": 4, "block": 2}}
        experiment["changes"] = growth if grows else {"max_steps": 2}
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "paper.yaml").write_text(yaml.safe_dump(short))
    for source in ("pg19", "fanfics"):
        (tmp_path / "texts" / source).mkdir(parents=True)
        rows = [{"text": f"Of {source} {i}. " + "One sentence more. " * 9} for i in range(6)]
        (tmp_path / "texts" / source / "texts.json").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(plans, "PLANS", tmp_path / "plans")
    monkeypatch.setattr(plans, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(cli, capsys):
    def run(*words) -> tuple[int, str, str]:
        capsys.readouterr()  # what laying out a folder said
        return cli("sweep", "paper", "--folder", "texts", *words)

    return run


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [*((name, "bfloat16") for name in LAID_OUT), ("mamba", "float32")],
)
def test_a_model_of_the_paper_is_swept_from_a_folder(architecture, dtype, here, sweep):
    hub_id, name, size = LAID_OUT[architecture]
    path = here / "plans" / "paper.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"dtype": dtype}))
    folder = lay_out(here, architecture)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (size != "1GB")
    assert (folder / "model.safetensors.index.json").exists() == (size != "1GB")
    code, out, err = sweep("--model", hub_id, "--n", 4)
    assert code == 0, err
    wanted = [e for e in load_plan("paper").experiments if not e.models or name in e.models]
    runs = sum(4 * len(e.lengths) for e in wanted)
    assert err.splitlines()[0].startswith(f"cramming: the whole plan is {runs:,} runs of ")
    assert "hours of a large GPU" in err.splitlines()[0]
    assert out == f"{runs} runs stored in {here / 'results' / 'paper'}, {runs} there now\n"
    frame = Store(here / "results" / "paper").frame()
    assert set(frame["model"]) == {name}
    assert set(frame["dtype"]) == {dtype}
    assert set(frame["model_digest"]) == {load(hub_id, device="cpu", dtype=dtype).digest}
    assert set(frame["source"]) == {source for e in wanted for source in e.sources}
    assert frame.groupby(["kind", "source", "offered", "n_vectors"])["passage"].nunique().unique().tolist() == [4]
    assert len(frame) == runs
    assert set(frame["n_vectors"]) == {e.n_vectors for e in wanted}
    assert len(recheck(Store(here / "results" / "paper"), device="cpu", progress=False)) == runs
    # What is stored is not run again, by whichever of its names the model is asked for.
    for again in (name.lower(), folder):
        assert sweep("--model", again, "--n", 4)[1].startswith("0 runs stored")
    assert sweep("--model", name, "--n", 5, "--page", "information")[1].startswith(f"{runs // 4} runs stored")


def test_texts_are_read_from_the_folder_of_their_source(here):
    plan = load_plan("paper").narrowed(model="Pythia-160M", n=2, folder=Path("texts"))
    assert {(e.source, e.folder) for e in plan.experiments} == {
        ("pg19", "texts/pg19"),
        ("fanfics", "texts/fanfics"),
        ("random", None),
    }
    assert {e.n for e in plan.experiments} == {2}
    assert load_plan("paper").narrowed() == load_plan("paper")
    both = load_plan("paper").experiments[0].model_copy(update={"source": ("pg19", "novels")})
    narrowed = plan.model_copy(update={"experiments": (both,)}).narrowed(folder=Path("texts"))
    assert [(e.source, e.folder) for e in narrowed.experiments] == [("pg19", "texts/pg19"), ("novels", None)]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Pythia-160M", "Pythia-160M"),
        ("pythia-160m", "Pythia-160M"),
        ("EleutherAI/pythia-160m", "Pythia-160M"),
        ("/some/where/EleutherAI/pythia-160m", "Pythia-160M"),
        ("weights/mine", "mine"),
        ("weights/mine.gguf", "mine"),
    ],
)
def test_a_model_goes_by_several_names(model, name):
    assert {model, name} <= names_of(model)
    assert "Pythia-410M" not in names_of(model)


def test_a_folder_is_taken_before_the_hub_and_goes_by_the_papers_name(here):
    folder = lay_out(here, "llama")
    digest = load(str(folder), device="cpu").digest
    for asked in ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B", str(folder)):
        lm = load(asked, device="cpu")
        assert (lm.name, lm.digest) == ("Llama-3.2-1B", digest)
        assert lm.provenance == "Llama-3.2-1B, weights from a local folder, float32"
        assert models.parameter_count(asked) == 1e9  # as published
    folder.rename(here / "Llama-3.2-1B")
    assert load("Llama-3.2-1B", device="cpu").digest == digest


def pickled(folder: Path) -> None:
    """The same weights as old repositories have them."""
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors*"):
        tensors |= load_file(path) if path.suffix == ".safetensors" else {}
        path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def test_a_folder_with_pickles_alone_is_one_line_and_nothing_of_it_is_read(here, sweep, monkeypatch):
    pickled(lay_out(here, "gpt_neox"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    code, out, err = sweep("--model", "EleutherAI/pythia-160m", "--n", 4)
    estimate, said = err.splitlines()
    assert (code, out) == (2, "")
    assert estimate.startswith("cramming: the whole plan is ")
    assert said == (
        "cramming: EleutherAI/pythia-160m cannot be loaded (pytorch_model.bin: weights as a pickle alone, which are "
        "not read, since a pickle can run any code): get model.safetensors, on the hub often a pull request, or "
        "convert it where you trust it"
    )
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "tiny-llama"], "the plan has no model 'tiny-llama': it has Pythia-160M, Pythia-410M, "),
        (["--model", "mine/pythia-160m"], "the plan has no model 'mine/pythia-160m'"),
        (["--n", "0"], "n is 0: give at least 1 passage"),
    ],
)
def test_what_cannot_be_swept_is_said_in_a_line(words, message, here, sweep):
    code, out, err = sweep(*words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (here / "results").exists()


def test_an_incomplete_set_of_files_is_refused(here):
    folder = lay_out(here, "llama")
    sorted(folder.glob("*.safetensors"))[0].unlink()
    with pytest.raises(CrammingError, match=r"Llama-3\.2-1B cannot be loaded .*complete copy of a model") as caught:
        load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_the_tiny_layouts_are_of_the_architectures_that_the_paper_has(here):
    for architecture in LAID_OUT:
        config = AutoConfig.from_pretrained(lay_out(here, architecture))
        assert config.model_type == architecture
        assert AutoModelForCausalLM.from_config(config) is not None
