"""Results on a hub: the vectors of the store as a dataset, with a card that says what they are."""

from __future__ import annotations

from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi, get_token, metadata_load
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import HfHubHTTPError

from cramming.errors import CrammingError, first_line
from cramming.paths import RESULTS

CARD = "README.md"

# What of a store is sent: rows and vectors, not the checkpoints of runs under way.
KINDS = (".parquet", ".safetensors")


def card(root: Path = RESULTS, scale: str | None = None) -> str:
    """The dataset card of the results folder, its list of stores cut down to the one of a scale.

    Raises:
        CrammingError: If there is no card, or it does not list the scale.
    """
    return _card(root, scale).content


def files(root: Path = RESULTS, scale: str | None = None) -> list[Path]:
    """Rows and vectors of the stores that the card lists, or of the one of a scale, in order.

    Raises:
        CrammingError: If there is no card, it does not list the scale, or the stores are empty.
    """
    stores = [root / config["config_name"] for config in _card(root, scale).data["configs"]]
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
    sent: dict[str, Path | bytes] = {path.relative_to(root).as_posix(): path for path in chosen}
    sent[CARD] = text.encode()
    try:
        api = HfApi()
        api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
        done = api.create_commit(
            repo_id,
            repo_type="dataset",
            operations=[CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in sent.items()],
            commit_message=f"Results of {', '.join(sorted({path.parent.name for path in chosen}))}",
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CrammingError(
            f"{repo_id} was not pushed ({first_line(error)}): check the id, the network, and the token"
        ) from error
    return str(done.commit_url)


def _card(root: Path, scale: str | None) -> DatasetCard:
    path = root / CARD
    try:
        if metadata_load(path) is None:  # where `DatasetCard` would only warn
            raise ValueError("no YAML between --- and ---")
        found = DatasetCard.load(path)
        configs = {str(config["config_name"]): config for config in found.data["configs"]}
        if "" in configs:
            raise ValueError("a config without a name")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CrammingError(
            f"{path} is no dataset card ({first_line(error)}): it needs a YAML head that lists the stores as configs"
        ) from error
    if scale is not None:
        if scale not in configs:
            raise CrammingError(f"scale {scale!r} is not in the card {path}: use one of {', '.join(configs)}")
        found.data["configs"] = [configs[scale] | {"default": True}]
    return found
