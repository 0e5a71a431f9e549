"""Results on a hub: the vectors of the store as a dataset, with a card that says what they are."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import HfHubHTTPError

from cramming.errors import CrammingError, first_line
from cramming.paths import RESULTS

CARD = "README.md"

# What of a store is sent: rows and vectors, not the checkpoints of runs under way.
KINDS = (".parquet", ".safetensors")
_CARD = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)


def card(root: Path = RESULTS, scale: str | None = None) -> str:
    """The dataset card of the results folder, its list of stores cut down to the one of a scale.

    Raises:
        CrammingError: If there is no card, or it does not list the scale.
    """
    facts, prose = _read(root)
    if scale is not None:
        known = [str(config["config_name"]) for config in facts["configs"]]
        if scale not in known:
            raise CrammingError(f"scale {scale!r} is not in the card {root / CARD}: use one of {', '.join(known)}")
        facts["configs"] = [config for config in facts["configs"] if config["config_name"] == scale]
        facts["configs"][0]["default"] = True
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n{prose}"


def files(root: Path = RESULTS, scale: str | None = None) -> list[Path]:
    """Rows and vectors of the stores that the card lists, or of the one of a scale, in order.

    Raises:
        CrammingError: If there is no card, it does not list the scale, or the stores are empty.
    """
    facts = yaml.safe_load(_split(card(root, scale))[0])
    stores = [root / config["config_name"] for config in facts["configs"]]
    found = [path for store in stores for path in sorted(store.glob("[!.]*")) if path.suffix in KINDS]
    if not found:
        named = ", ".join(store.name for store in stores)
        raise CrammingError(f"nothing to push: {root} has no results of {named}: run `cramming sweep` first")
    return found


def push(repo_id: str, root: Path = RESULTS, scale: str | None = None) -> str:
    """Upload the card and the stores to a dataset repository of the Hugging Face hub, made if it is not there.

    Args:
        repo_id: owner/name on the hub.
        root: The folder of the stores.
        scale: One store alone; by default all that the card lists.

    Returns:
        Address of the commit.

    Raises:
        CrammingError: If there is nothing to push, nobody is logged in, or the hub refuses.
    """
    chosen, text = files(root, scale), card(root, scale)
    if get_token() is None:
        raise CrammingError("not logged in to the hub: run `hf auth login`, or set HF_TOKEN to a token that may write")
    with tempfile.TemporaryDirectory() as folder:
        for path in chosen:
            copy = Path(folder) / path.relative_to(root)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(path, copy)
        (Path(folder) / CARD).write_text(text, encoding="utf-8")
        try:
            api = HfApi()
            api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=[CARD, *(f"*{kind}" for kind in KINDS)],
                commit_message=f"Results of {', '.join(sorted({path.parent.name for path in chosen}))}",
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise CrammingError(
                f"{repo_id} was not pushed ({first_line(error)}): check the id, the network, and the token"
            ) from error
    return str(done.commit_url)


def _read(root: Path) -> tuple[dict[str, Any], str]:
    try:
        head, prose = _split((root / CARD).read_text(encoding="utf-8"))
        facts = yaml.safe_load(head)
        if not all(config["config_name"] for config in facts["configs"]):
            raise ValueError("a config without a name")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CrammingError(
            f"{root / CARD} is no dataset card ({first_line(error)}): "
            "it needs a YAML head that lists the stores as configs"
        ) from error
    return facts, prose


def _split(text: str) -> tuple[str, str]:
    found = _CARD.fullmatch(text)
    if not found:
        raise ValueError("no YAML between --- and ---")
    return found[1], found[2]
