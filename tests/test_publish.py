"""What leaves this machine: workflows that publish the pages, buttons that lead to notebooks, vectors for a hub."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError
from sphinx_book_theme.header_buttons.launch import add_launch_buttons

from cramming import cli
from cramming.book import execute, stage
from cramming.errors import CrammingError
from cramming.paths import RESULTS
from cramming.results import hub
from cramming.results.store import SCHEMA, Store
from tests.test_store import mem, row

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "https://github.com/someone/companion"


def committed(folder: str) -> set[str]:
    done = subprocess.run(["git", "ls-files", folder], cwd=ROOT, text=True, capture_output=True, check=True)
    return set(done.stdout.splitlines())


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def steps(job: dict) -> dict[str, dict]:
    """Steps of a job by the action they use, without its version, or by the command they run."""
    return {step.get("uses", step.get("run", "")).partition("@")[0]: step for step in job["steps"]}


# Workflows


@pytest.mark.parametrize(
    ("name", "job", "command"), [("publish", "build", "make book"), ("test", "test", "make test")]
)
def test_workflows_run_the_commands_of_the_readme(name, job, command):
    assert re.search(rf"^{command}\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    found = steps(workflow(name)["jobs"][job])
    assert [step for step in found if "/" not in step] == [command]
    assert found["actions/setup-python"]["with"]["python-version"] == "3.11"
    # CPU wheels are taken only where the lock names torch without a local version.
    assert "pytorch.org/whl/cpu" in workflow(name)["env"]["PIP_EXTRA_INDEX_URL"]
    assert re.search(r"^torch==[\d.]+$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_the_book_is_published_with_its_address_and_no_more_rights_than_that_takes():
    jobs = workflow("publish")["jobs"]
    build = steps(jobs["build"])
    assert "github.repository" in build["make book"]["env"]["CRAMMING_REPOSITORY_URL"]
    assert build["make book"]["env"]["BOOK_OPTIONS"] == "--weights"
    assert build["actions/upload-pages-artifact"]["with"]["path"] == "_site"
    assert jobs["deploy"]["needs"] == "build"
    writing = {(name, right) for name, job in jobs.items() for right in job.get("permissions", {}).items()}
    assert {right for right in writing if right[1][1] == "write"} == {
        ("deploy", ("pages", "write")),
        ("deploy", ("id-token", "write")),
    }
    for name in ("publish", "test"):
        assert workflow(name)["permissions"] == {"contents": "read"}
        assert workflow(name)["concurrency"]["group"]


# Buttons


def test_launch_buttons_lead_to_committed_notebooks(tmp_path, monkeypatch):
    """The theme itself makes the links, out of the staged configuration."""
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    monkeypatch.setenv("CRAMMING_REPOSITORY_URL", ADDRESS)
    theme = yaml.safe_load((stage.stage(tmp_path) / "_config.yml").read_text())["sphinx"]["config"][
        "html_theme_options"
    ]
    pages = [name.removesuffix(".ipynb") for name in execute.notebooks(ROOT)]
    environment = SimpleNamespace(
        doc2path=lambda page: f"/x/{page}.ipynb", metadata={p: {"kernelspec": {}} for p in pages}
    )
    app = SimpleNamespace(env=environment, config={"html_theme_options": theme})
    host, owner, name = ADDRESS.rsplit("/", 2)
    repository = {"github_url": host, "github_user": owner, "github_repo": name}
    found = set()
    for page in pages:
        context = {"pagename": page, "sourcename": f"{page}.ipynb", "header_buttons": [], **repository}
        add_launch_buttons(app, page, "page.html", context, None)
        links = {button["text"]: button["url"] for button in context["header_buttons"][0]["buttons"]}
        assert links["Binder"].startswith("https://mybinder.org/v2/gh/someone/companion/main?")
        assert links["Colab"].startswith("https://colab.research.google.com/github/someone/companion/blob/main/")
        paths = {links["Colab"].partition("/blob/main/")[2], links["Binder"].partition("urlpath=lab/tree/")[2]}
        assert len(paths) == 1
        found |= paths
    assert len(found) == len(pages)
    assert found <= committed("notebooks")


def test_without_an_address_pages_have_no_such_buttons(tmp_path, monkeypatch):
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    monkeypatch.delenv("CRAMMING_REPOSITORY_URL", raising=False)
    text = (stage.stage(tmp_path) / "_config.yml").read_text()
    assert "colab" not in text
    assert "binder" not in text
    monkeypatch.setenv("CRAMMING_REPOSITORY_URL", "https://gitlab.com/someone/companion")
    text = (stage.stage(tmp_path) / "_config.yml").read_text()
    assert "colab" not in text, "the theme warns, and a warning fails the build"
    assert "binder" in text


# The dataset card


def test_the_card_says_what_each_column_is():
    table = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.+) \|$", hub.card(), re.MULTILINE)

    def named(kind: pa.DataType) -> str:
        return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)

    assert [(name, kind) for name, kind, _ in table] == [(field.name, named(field.type)) for field in SCHEMA]


def test_the_card_lists_the_committed_stores():
    configs = yaml.safe_load(hub.card().split("---\n")[1])["configs"]
    stores = {Path(name).parent.name for name in committed("data/results") if name.endswith(".parquet")}
    assert {config["config_name"] for config in configs} == stores
    for config in configs:
        assert list(RESULTS.glob(config["data_files"])), config
        assert f"| `{config['config_name']}` |" in hub.card()
    assert [config["config_name"] for config in configs if config.get("default")] == ["laptop"]


def test_the_card_tells_size_and_terms():
    facts = yaml.safe_load(hub.card().split("---\n")[1])
    rows = sum(len(Store(RESULTS / config["config_name"]).keys()) for config in facts["configs"])
    assert facts["size_categories"] == ["n<1K" if rows < 1_000 else "1K<n<10K" if rows < 10_000 else "10K<n<100K"]
    assert {"license", "license_name", "language", "tags", "pretty_name"} <= set(facts)
    assert (RESULTS / facts["license_link"]).is_file()


# Pushing


@pytest.fixture
def results(tmp_path) -> Path:
    """Two stores of one run each, one with a run under way, and a card."""
    root = tmp_path / "results"
    for name in ("laptop", "cuts"):
        Store(root / name).add(row(name), mem(0))
    Store(root / "laptop").checkpoint("later", {"u": mem(1)})
    (root / "laptop" / ".left.parquet").touch()
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("laptop", "cuts", "none")]
    (root / "README.md").write_text(f"---\n{yaml.safe_dump({'license': 'mit', 'configs': configs})}---\n# Results\n")
    return root


@pytest.fixture
def api(monkeypatch):
    """A hub that takes everything, and remembers it."""
    taken = SimpleNamespace(files={}, calls=[], fails=None)

    class Fake:
        def create_repo(self, repo_id, *, repo_type, exist_ok):
            taken.calls.append(("create", repo_id, repo_type, exist_ok))
            if taken.fails:
                raise taken.fails

        def create_commit(self, repo_id, operations, *, repo_type, commit_message):
            taken.calls.append(("commit", repo_id, repo_type, len(operations), commit_message))
            for added in operations:
                with added.as_file() as file:
                    taken.files[added.path_in_repo] = file.read()
            return SimpleNamespace(commit_url=f"https://example.org/{repo_id}/commit/1")

    monkeypatch.setattr(hub, "HfApi", Fake)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_token")
    return taken


def test_rows_vectors_and_card_go_to_the_hub_and_nothing_else(results, api):
    assert hub.push("me/vectors", results) == "https://example.org/me/vectors/commit/1"
    stems = {name: next((results / name).glob("[!.]*.parquet")).stem for name in ("laptop", "cuts")}
    expected = {f"{name}/{stem}{kind}" for name, stem in stems.items() for kind in (".parquet", ".safetensors")}
    assert set(api.files) == expected | {"README.md"}
    assert all(api.files[name] == (results / name).read_bytes() for name in expected)
    (_, *created), (_, *sent) = api.calls
    assert created == ["me/vectors", "dataset", True]
    assert sent == ["me/vectors", "dataset", len(expected) + 1, "Results of cuts, laptop"]
    assert api.files["README.md"].decode() == hub.card(results)


def test_one_store_alone_goes_with_a_card_of_its_own(results, api):
    hub.push("me/vectors", results, "cuts")
    assert {Path(name).parent.name for name in api.files} == {"cuts", ""}
    facts = yaml.safe_load(api.files["README.md"].decode().split("---\n")[1])
    assert facts["configs"] == [{"config_name": "cuts", "data_files": "cuts/*.parquet", "default": True}]
    assert api.files["README.md"].endswith(b"# Results\n")


def test_refusals_are_one_line_and_come_before_anything_is_sent(results, api, monkeypatch):
    def refused(match: str, *arguments) -> None:
        with pytest.raises(CrammingError, match=match) as caught:
            hub.push("me/vectors", *arguments)
        assert "\n" not in str(caught.value)
        assert not api.files

    refused(r"scale 'laptp' is not in the card .*: use one of laptop, cuts, none", results, "laptp")
    refused(r"nothing to push: .* has no results of none: run `cramming sweep`", results, "none")
    refused(r"README\.md is no dataset card", results / "laptop")
    with monkeypatch.context() as patch:
        patch.setattr(hub, "get_token", lambda: None)
        refused("not logged in to the hub: run `hf auth login`, or set HF_TOKEN", results)
    assert api.calls == []
    response = SimpleNamespace(headers={}, request=None)
    forbidden = HfHubHTTPError("403 Forbidden\nsome more", response=response)
    for api.fails in (forbidden, ConnectionError("no route to host")):
        refused(r"me/vectors was not pushed \((403 Forbidden|no route to host)\): check the id", results)


def test_a_dry_run_lists_files_and_sizes_and_asks_nobody(results, api, monkeypatch, capsys):
    monkeypatch.setattr("cramming.paths.RESULTS", results)
    monkeypatch.setattr(hub, "get_token", lambda: pytest.fail("asked for a token"))
    monkeypatch.setattr(sys, "argv", ["cramming", "push", "me/vectors", "--scale", "laptop", "--dry-run"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    *lines, total = capsys.readouterr().out.splitlines()
    sizes = {name: int(size.replace(",", "")) for size, name in (line.split() for line in lines)}
    assert {Path(name).suffix for name in sizes} == {".parquet", ".safetensors", ".md"}
    for name in sizes.keys() - {"README.md"}:
        assert sizes[name] == (results / name).stat().st_size
    assert total.strip() == f"{sum(sizes.values()):,}  bytes in 3 files would go to me/vectors"
    assert api.calls == []
