"""The frozen model as ONNX files, for readers without Python, such as the pages that compute in a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from onnx import TensorProto
from onnx.utils import Extractor

from cramming.book.explorer import pieces
from cramming.book.graph import to_gradient, to_onnx
from cramming.decode import exact_prefix, generated
from cramming.errors import CrammingError
from cramming.files import atomic
from cramming.memories import VECTORS
from cramming.models import FrozenLM, load
from cramming.recipes import RECIPES, Recipe
from cramming.results.parts import cut
from cramming.results.plans import load_plan
from cramming.results.store import Store
from cramming.rounding import quantise

PAGE = "book/decode.yaml"  # which passages the page shows
FOLDER = "book/_static/browser"
WEIGHTS = "weights"  # a folder in that one
RUNTIME, TOKENIZER = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm.gz"), "tokenizers.min.mjs"
LIVE = "best"  # the recipe of the page that crams
LEAST, MOST = 3, 24  # tokens of a text there
PART = 25_000_000  # bytes: hosts of pages refuse larger files
SMALL = 1024  # bytes of a tensor that stays in the graph


def taken_apart(file: bytes, graph: onnx.ModelProto | None = None) -> dict[str, Any]:
    """What a reader has to know who unpacks a file of `write` by himself, matrix by matrix.

    A runtime that is given the whole file holds every step of the unpacking of every matrix at the same time.

    Args:
        file: What `write` wrote.
        graph: Another graph of the same weights, such as that of the gradient, to be used with this file.

    Returns:
        Keys graph, a model in base64 whose tensors, but for small ones, are external data, each at a location of its
        own; and tensors, of each its location, its bytes, and where in the file its numbers begin, or for one that
        lies on a grid, see `to_grid`, where codes, scale and least do, or -1 for a part that it lacks.
    """
    source = onnx.load_from_string(file)
    found, at = dict[str, int](), 0
    for tensor in source.graph.initializer:
        found[tensor.name] = at = file.index(tensor.raw_data, at)
    model = graph or source
    shapes = {port.name: [d.dim_value for d in port.type.tensor_type.shape.dim] for port in model.graph.value_info}
    inputs, outputs = ([port.name for port in ports] for ports in (model.graph.input, model.graph.output))
    inner = Extractor(model).extract_model([*inputs, *shapes], outputs).graph
    table = list[list[str | int]]()
    for tensor in inner.initializer:
        if len(tensor.raw_data) > SMALL:
            table.append([tensor.name, len(tensor.raw_data), found[tensor.name], -1, -1])
            _outside(tensor)
    for port in [port for port in inner.input if port.name in shapes]:
        inner.input.remove(port)
        _outside(inner.initializer.add(name=port.name, data_type=TensorProto.FLOAT, dims=shapes[port.name]))
        parts = (port.name.removesuffix("numbers") + part for part in ("codes", "scale", "least"))
        table.append([port.name, 4 * math.prod(shapes[port.name]), *(found.get(part, -1) for part in parts)])
    model.graph.CopyFrom(inner)
    return {"graph": base64.b64encode(model.SerializeToString()).decode(), "tensors": table}


def _outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=tensor.name)


def write(lm: FrozenLM, out: Path, *, gradient: bool = False) -> int:
    """Write the model as ONNX, whole or not at all.

    Args:
        lm: The model, see `to_onnx`.
        out: The file.
        gradient: Whether it is to be the graph of one step of cramming, see `to_gradient`, not that which decodes.

    Returns:
        Its size in bytes.

    Raises:
        CrammingError: As `to_onnx` does, or if the file cannot be written.
    """
    blob = (to_gradient(lm) if gradient else to_onnx(lm)).SerializeToString()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic(out, blob)
    except OSError as error:
        raise CrammingError(f"{out} cannot be written ({error.strerror or error}): name another file") from error
    return len(blob)


def lay(blob: bytes, folder: Path) -> dict[str, Any]:
    """Lay a file into a folder in parts that any host serves, each named after what is in it.

    Returns:
        What manifest.json says there: bytes and sha256 of the whole, and name, bytes and sha256 of each of the parts.
    """
    folder.mkdir(parents=True)
    manifest = cut(io.BytesIO(blob), folder, PART)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def assemble(root: Path, place: Path, *, weights: bool = False) -> None:
    """Put what the pages of the browser read beside them, as scripts: from file:// a browser loads nothing else.

    Args:
        root: The repository.
        place: The staged copy of it. There, passages.js and recipe.js are written, of the one page and the other, and
            the scripts that both read once there are weights; the parts of these go.
        weights: Whether to lay the model's file beside the pages too, see `lay`.

    Raises:
        CrammingError: If book/decode.yaml names a run that the store lacks, or another model's.
    """
    wanted = yaml.safe_load((place / PAGE).read_text(encoding="utf-8"))
    folder, store = place / FOLDER, Store(root / "data" / "results" / wanted["scale"])
    lm = load(load_plan(wanted["scale"]).models[0], device="cpu")
    passages = page_passages(store, wanted["runs"], lm)
    blob = to_onnx(lm).SerializeToString()
    model = about(lm) | {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    if weights:
        model |= lay(blob, folder / WEIGHTS)
    runtime, wasm, tokenizer = (folder / name for name in (*RUNTIME, TOKENIZER))
    worker = [folder / "session.js", folder / "worker.js"]
    _script(folder / "runtime.js", "CRAMMING_RUNTIME", {"module": _base64(runtime), "wasm": _base64(wasm)})
    _script(folder / "tokenizer.js", "CRAMMING_TOKENIZER", {"module": _base64(tokenizer), "json": read_by(lm)})
    _script(folder / "graph.js", "CRAMMING_GRAPH", taken_apart(blob))
    _script(folder / "gradient.js", "CRAMMING_GRADIENT", taken_apart(blob, to_gradient(lm)))
    _script(folder / "passages.js", "CRAMMED", {"model": model, "passages": passages})
    _script(folder / "recipe.js", "CRAMMING", {"model": model} | search(store))
    _script(worker[1], "CRAMMING_WORKER", "".join(path.read_text(encoding="utf-8") for path in worker))
    for path in (runtime, wasm, tokenizer):
        path.unlink()


def search(store: Store) -> dict[str, Any]:
    """What the page that crams has to know: the recipe, how long a text may be, and how many steps runs of it took.

    Returns:
        Keys recipe, all of its fields; least and most, tokens; and took: length in tokens, n, and the fewest, the
        median and the most steps of the store's runs of that recipe that ended with every token right, if there are.
    """
    recipe, took = RECIPES[LIVE], None
    rows = store.frame()
    rows = rows[rows["exact"].astype(bool) & (rows["n_vectors"] == 1)]
    rows = rows[[Recipe.model_validate_json(text).deciding() == recipe.deciding() for text in rows["recipe_json"]]]
    if len(rows):
        length = int(rows["length"].mode()[0])
        steps = rows.loc[rows["length"] == length, "steps"]
        took = {"length": length, "n": len(steps)} | {
            name: int(steps.quantile(share)) for name, share in (("least", 0), ("median", 0.5), ("most", 1))
        }
    return {"recipe": recipe.model_dump(mode="json"), "least": LEAST, "most": MOST, "took": took}


def read_by(lm: FrozenLM) -> dict[str, Any]:
    """The model's tokenizer, as tokenizer.json has it.

    Raises:
        CrammingError: If it is none that a library for browsers can read.
    """
    backend = getattr(lm.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CrammingError(f"{lm.name} has no tokenizer.json: the pages of the browser need one, use another model")
    return json.loads(backend.to_str())


def about(lm: FrozenLM) -> dict[str, Any]:
    """What a reader of the exported model has to know: name, digest, width, and the shape of past before it begins."""
    config: Any = lm.model.config
    wide = config.head_dim or config.hidden_size // config.num_attention_heads
    past = [2 * config.num_hidden_layers, config.num_key_value_heads, 0, wide]
    return {"name": lm.name, "digest": lm.digest, "width": lm.width, "past": past}


def page_passages(store: Store, keys: Sequence[str], lm: FrozenLM) -> list[dict[str, Any]]:
    """Runs of a store, with their vectors, for the page.

    Args:
        store: Where they are.
        keys: The first digits of each run's key.
        lm: The model that the page decodes with.

    Returns:
        Of each run key, passage, source, recipe, model, model_digest, length, margin, ids, mem, which is float32,
        little-endian, in base64, and recorded, see `recordings`.

    Raises:
        CrammingError: If the store lacks a run, or it is not one that this page can decode and check.
    """
    frame, vectors, found = store.frame(), store.vectors(), list[dict[str, Any]]()
    for key in keys:
        rows = frame[frame["key"].str.startswith(key)]
        if len(rows) != 1:
            raise CrammingError(
                f"run {key!r} of {PAGE} is in the store {store.root.name} {len(rows)} times: name one of its keys"
            )
        row, mem = rows.iloc[0], vectors[rows.iloc[0]["key"]]
        if row["model_digest"] != lm.digest:
            raise CrammingError(
                f"run {key!r} of {PAGE} was crammed into {row['model']} {row['model_digest']}, "
                f"the model here is {lm.name} {lm.digest}: name runs of one model"
            )
        memory = Recipe.model_validate_json(row["recipe_json"]).memory
        if not (row["exact"] and row["score_first"] and memory == "vectors" and tuple(mem.shape) == (1, lm.width)):
            raise CrammingError(f"run {key!r} of {PAGE} is not an exact one of one mem vector: name another")
        found.append(
            {name: str(row[name]) for name in ("key", "passage", "source", "recipe", "model", "model_digest")}
            | {"length": int(row["length"]), "margin": float(row["margin"])}
            | {"ids": [int(token) for token in row["token_ids"][: row["length"]]]}
            | {"mem": base64.b64encode(mem[0].numpy().astype("<f4").tobytes()).decode()}
        )
    mems = [vectors[passage["key"]] for passage in found]
    for passage, recorded in zip(found, recordings(lm, mems, [passage["ids"] for passage in found]), strict=True):
        passage["recorded"] = recorded
    return found


@torch.no_grad()
def recordings(
    lm: FrozenLM, mems: Sequence[torch.Tensor], texts: Sequence[Sequence[int]]
) -> list[list[dict[str, Any]]]:
    """What the model says, given a vector alone: each as it is, and rounded to the most bits at which its text breaks.

    Args:
        lm: The frozen model.
        mems: Exact vectors, each (1, d).
        texts: The token ids of each.

    Returns:
        Of each vector its recordings, the second only where some rounding breaks it: bits (None as it is), said (ids,
        as many as the text has), tokens (their text), and won (by how many logits each was the likeliest).
    """
    tried = [
        (i, bits, mem)
        for i, (mem, ids) in enumerate(zip(mems, texts, strict=True))
        for bits, mem in ((None, mem), *_breaking(lm, mem, ids))
    ]
    feed = VECTORS.feed(lm, torch.stack([mem for _, _, mem in tried]), torch.zeros(len(tried), 1, dtype=torch.long))
    steps = [logits.float().topk(2) for logits in generated(lm, feed.inputs(use_cache=True), max(map(len, texts)))]
    said = torch.stack([best.indices[:, 0] for best in steps], 1)
    won = torch.stack([best.values[:, 0] - best.values[:, 1] for best in steps], 1)
    found: list[list[dict[str, Any]]] = [[] for _ in mems]
    for row, (i, bits, _) in enumerate(tried):
        ids = said[row, : len(texts[i])].tolist()
        gaps = [round(gap, 3) for gap in won[row, : len(ids)].tolist()]
        found[i].append({"bits": bits, "said": ids, "tokens": pieces(lm, ids), "won": gaps})
    return found


def _breaking(lm: FrozenLM, mem: torch.Tensor, ids: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """The most bits at which a rounded vector does not give its text back, and that vector; nothing if none does."""
    for bits in range(8, 0, -1):
        rounded = quantise(mem, bits)
        if exact_prefix(lm, rounded[None], ids)[0] < len(ids):
            yield bits, rounded
            return


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _script(path: Path, name: str, value: object) -> None:
    path.write_text(f"window.{name} = {json.dumps(value, separators=(',', ':'))};\n", encoding="utf-8")
