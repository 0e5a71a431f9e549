"""The frozen model as an ONNX file of its own, for readers without Python, such as the page that decodes in a browser.

Weights that came from a 4-bit or 8-bit file lie on a coarse grid, block by block. The grid is found again and stored,
and the graph computes the float32 numbers from it as the file's own reader did. So the export is small, and no weight
differs in any bit.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from cramming.book.explorer import pieces
from cramming.decode import exact_prefix, generated
from cramming.errors import CrammingError
from cramming.files import atomic
from cramming.memories import VECTORS
from cramming.models import FrozenLM, load
from cramming.recipes import Recipe
from cramming.results.parts import cut
from cramming.results.plans import load_plan
from cramming.results.store import Store
from cramming.rounding import quantise

BLOCK = 32  # numbers that share a scale, in the formats Q4_1 and Q8_0 of GGUF
OPSET, IR = 18, 9  # what readers of 2023 and later know
PAGE = "book/decode.yaml"  # which passages the page shows
FOLDER = "book/_static/decode"
WEIGHTS = "weights"  # a folder in that one
PART = 25_000_000  # bytes: hosts of pages refuse larger files
SMALL = 1024  # bytes of a tensor that stays in the graph


def to_grid(weight: np.ndarray) -> dict[str, np.ndarray] | None:
    """The grid that all numbers of a matrix lie on, block by block of a row, None if there is none.

    Args:
        weight: Shape (n, d), float32.

    Returns:
        codes, scale, and for four bits also least: number i of a block is ``codes[i] * scale + least``, computed in
        float32, to the bit. With least, two codes share a byte: byte i of a block has code i below and i + 16 above.

    Examples:
        >>> to_grid(np.arange(32, dtype=np.float32)[None])["codes"].dtype
        dtype('int8')
        >>> to_grid(np.linspace(0, 1, 32, dtype=np.float32)[None]) is None
        True
    """
    if weight.shape[1] % BLOCK:
        return None
    blocks = weight.reshape(len(weight), -1, BLOCK)
    # Whoever rounds to a grid takes it as wide as the block: its ends are among the numbers.
    least, most, widest = blocks.min(2), blocks.max(2), np.abs(blocks).max(2)
    four = _on_grid(blocks, _half((most - least) / 15), _half(least), 0, 15)
    if four is not None:
        codes, scale, low = four
        pairs = codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4
        return {"codes": pairs.astype(np.uint8), "scale": scale, "least": low}
    eight = _on_grid(blocks, _half(widest / 127), np.zeros_like(least, np.float16), -127, 127)
    return None if eight is None else {"codes": eight[0].astype(np.int8), "scale": eight[1]}


def from_grid(grid: Mapping[str, np.ndarray]) -> np.ndarray:
    """The matrix that `to_grid` was given: float32, shape (n, d)."""
    codes, scale = grid["codes"], grid["scale"].astype(np.float32)[..., None]
    if "least" in grid:
        numbers = np.concatenate([codes & 15, codes >> 4], axis=2).astype(np.float32) * scale
        numbers = numbers + grid["least"].astype(np.float32)[..., None]
    else:
        numbers = codes.astype(np.float32) * scale
    return numbers.reshape(len(codes), -1)


def to_onnx(lm: FrozenLM) -> onnx.ModelProto:
    """The model as a graph that decodes from mem vectors, all at once or token by token.

    Inputs: mem, float32 (k, d); ids, int64 (n,); past, float32 (2 layers, heads, t, width of a head). Either of mem
    and ids may be empty, and past is at first. Outputs: logits, float32 (k + n, vocabulary), and present, which is
    past for the next call.

    Raises:
        CrammingError: If the model is no Llama in float32, or one of its settings is not known here.
    """
    config: Any = lm.model.config
    if config.model_type != "llama" or str(lm.dtype) != "torch.float32":
        raise CrammingError(
            f"{lm.name} is {config.model_type} in {str(lm.dtype).removeprefix('torch.')}: export a Llama in float32, "
            "such as smollm2-135m"
        )
    rope = config.rope_parameters
    settings = {
        "hidden_act": (config.hidden_act, "silu"),
        "rope_type": (rope["rope_type"], "default"),
        "attention_bias": (bool(config.attention_bias), False),
        "mlp_bias": (bool(config.mlp_bias), False),
    }
    for name, (found, known) in settings.items():
        if found != known:
            raise CrammingError(f"{lm.name} has {name} {found!r}: the export knows {known!r} only, use another model")
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in lm.model.state_dict().items()}
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    width = about(lm)["past"][-1]
    g = _Graph()

    def norm(x: str, name: str) -> str:
        mean = g("ReduceMean", g("Mul", x, x), g.ints(-1), keepdims=1)
        scaled = g("Div", x, g("Sqrt", g("Add", mean, g.floats(config.rms_norm_eps))))
        return g("Mul", g.constant(weights[name]), scaled)

    def linear(x: str, name: str) -> str:
        return g("Gemm", x, g.matrix(name, weights[name]), transB=1)

    def rotated(x: str) -> str:
        first, second = g.split(x, 2)
        turned = g("Concat", g("Neg", second), first, axis=-1)
        return g("Add", g("Mul", x, cosines), g("Mul", turned, sines))

    # Positions of what is fed now, (k + n,), and of all that is attended to.
    table = "model.embed_tokens.weight"
    x = g("Concat", "mem", g.rows(table, weights[table], "ids"), axis=0)
    before = g("Squeeze", g("Shape", "past", start=2, end=3))
    after = g("Add", before, g("Squeeze", g("Shape", x, start=0, end=1)))
    positions = g("Unsqueeze", g("Range", before, after, g.whole(1)), g.ints(1))
    everywhere = g("Unsqueeze", g("Range", g.whole(0), after, g.whole(1)), g.ints(0))
    mask = g("Where", g("LessOrEqual", everywhere, positions), g.floats(0), g.floats(float(np.finfo(np.float32).min)))
    turns = 1 / rope["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles = g("Mul", g("Cast", positions, to=TensorProto.FLOAT), g.constant(turns.astype(np.float32)[None]))
    angles = g("Concat", angles, angles, axis=-1)
    cosines, sines = g("Cos", angles), g("Sin", angles)

    pasts, presents = g.split("past", 2 * config.num_hidden_layers, axis=0), list[str]()
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm.weight")
        query, key, value = (
            g(
                "Transpose",
                g("Reshape", linear(h, f"{at}.self_attn.{name}_proj.weight"), g.ints(0, n, width)),
                perm=[1, 0, 2],
            )
            for name, n in (("q", heads), ("k", shared), ("v", shared))
        )
        keys, values = (
            g("Concat", g("Squeeze", old, g.ints(0)), new, axis=1)
            for old, new in zip(pasts[2 * layer : 2 * layer + 2], (rotated(key), value), strict=True)
        )
        presents += [g("Unsqueeze", keys, g.ints(0)), g("Unsqueeze", values, g.ints(0))]
        # Heads that share keys and values: an axis of their own.
        grouped = g("Reshape", rotated(query), g.ints(shared, heads // shared, -1, width))
        scores = g("MatMul", grouped, g("Transpose", g("Unsqueeze", keys, g.ints(1)), perm=[0, 1, 3, 2]))
        scores = g("Add", g("Mul", scores, g.floats(width**-0.5)), mask)
        mixed = g("MatMul", g("Softmax", scores, axis=-1), g("Unsqueeze", values, g.ints(1)))
        mixed = g("Reshape", g("Transpose", mixed, perm=[2, 0, 1, 3]), g.ints(0, heads * width))
        x = g("Add", x, linear(mixed, f"{at}.self_attn.o_proj.weight"))
        h = norm(x, f"{at}.post_attention_layernorm.weight")
        gate = linear(h, f"{at}.mlp.gate_proj.weight")
        gated = g("Mul", g("Mul", gate, g("Sigmoid", gate)), linear(h, f"{at}.mlp.up_proj.weight"))
        x = g("Add", x, linear(gated, f"{at}.mlp.down_proj.weight"))
    head = "lm_head.weight"
    g("Gemm", norm(x, "model.norm.weight"), g.matrix(head, weights[head]), out="logits", transB=1)
    g("Concat", *presents, axis=0, out="present")

    def port(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    store = (2 * config.num_hidden_layers, shared)
    graph = helper.make_graph(
        g.nodes,
        lm.name,
        [
            port("mem", TensorProto.FLOAT, "k", lm.width),
            port("ids", TensorProto.INT64, "n"),
            port("past", TensorProto.FLOAT, *store, "before", width),
        ],
        [
            port("logits", TensorProto.FLOAT, "fed", lm.vocab_size),
            port("present", TensorProto.FLOAT, *store, "after", width),
        ],
        g.tensors,
        value_info=[port(name, TensorProto.FLOAT, *shape) for name, shape in g.matrices.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(model, {"model_digest": lm.digest, "provenance": lm.provenance})
    return model


def taken_apart(blob: bytes) -> dict[str, Any]:
    """What a reader has to know who unpacks a file of `write` by himself, matrix by matrix.

    A runtime that is given the whole file holds every step of the unpacking of every matrix at the same time.

    Returns:
        Keys graph, a model in base64 whose tensors, but for small ones, are external data, each at a location of its
        own; and tensors, of each its location, its bytes, and where in the file its numbers begin, or for one that
        lies on a grid, see `to_grid`, where codes, scale and least do, or -1 for a part that it lacks.
    """
    model = onnx.load_from_string(blob)
    shapes = {port.name: [d.dim_value for d in port.type.tensor_type.shape.dim] for port in model.graph.value_info}
    inputs, outputs = ([port.name for port in ports] for ports in (model.graph.input, model.graph.output))
    found, at = dict[str, int](), 0
    for tensor in model.graph.initializer:
        found[tensor.name] = at = blob.index(tensor.raw_data, at)
    graph = Extractor(model).extract_model([*inputs, *shapes], outputs).graph
    table = list[list[str | int]]()
    for tensor in graph.initializer:
        if len(tensor.raw_data) > SMALL:
            table.append([tensor.name, len(tensor.raw_data), found[tensor.name], -1, -1])
            _outside(tensor)
    for port in [port for port in graph.input if port.name in shapes]:
        graph.input.remove(port)
        _outside(graph.initializer.add(name=port.name, data_type=TensorProto.FLOAT, dims=shapes[port.name]))
        parts = (port.name.removesuffix("numbers") + part for part in ("codes", "scale", "least"))
        table.append([port.name, 4 * math.prod(shapes[port.name]), *(found.get(part, -1) for part in parts)])
    model.graph.CopyFrom(graph)
    return {"graph": base64.b64encode(model.SerializeToString()).decode(), "tensors": table}


def _outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=tensor.name)


def write(lm: FrozenLM, out: Path) -> int:
    """Write the model as ONNX, whole or not at all.

    Args:
        lm: The model, see `to_onnx`.
        out: The file.

    Returns:
        Its size in bytes.

    Raises:
        CrammingError: As `to_onnx` does, or if the file cannot be written.
    """
    blob = to_onnx(lm).SerializeToString()
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
    """Put what the page of the browser reads beside it, as scripts: from file:// a browser loads nothing else.

    Args:
        root: The repository.
        place: The staged copy of it. There, passages.js, graph.js, vocabulary.js and runtime.js are written, and the
            parts of the last go.
        weights: Whether to lay the model's file beside the page too, see `lay`.

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
    parts = {"module": folder / "ort.wasm.bundle.min.mjs", "wasm": folder / "ort-wasm-simd-threaded.wasm.gz"}
    packed = {name: base64.b64encode(path.read_bytes()).decode() for name, path in parts.items()}
    _script(folder / "runtime.js", "CRAMMING_RUNTIME", packed)
    _script(folder / "graph.js", "CRAMMING_GRAPH", taken_apart(blob))
    _script(folder / "vocabulary.js", "CRAMMING_VOCABULARY", vocabulary(lm))
    _script(folder / "passages.js", "CRAMMED", {"model": model, "passages": passages})
    for path in parts.values():
        path.unlink()


def about(lm: FrozenLM) -> dict[str, Any]:
    """What a reader of the exported model has to know: name, digest, width, and the shape of past before it begins."""
    config: Any = lm.model.config
    wide = config.head_dim or config.hidden_size // config.num_attention_heads
    past = [2 * config.num_hidden_layers, config.num_key_value_heads, 0, wide]
    return {"name": lm.name, "digest": lm.digest, "width": lm.width, "past": past}


def vocabulary(lm: FrozenLM) -> list[str]:
    """Each token as its tokenizer writes it: of a byte-level one, a letter a byte."""
    return [piece or "" for piece in lm.tokenizer.convert_ids_to_tokens(list(range(lm.vocab_size)))]


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


def _script(path: Path, name: str, value: object) -> None:
    path.write_text(f"window.{name} = {json.dumps(value, separators=(',', ':'))};\n", encoding="utf-8")


class _Graph:
    """Nodes and tensors of a graph under construction; a call adds a node and gives the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.matrices: dict[str, tuple[int, ...]] = {}  # outputs that depend on no input, and their shapes
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._grids: dict[tuple[int, tuple[int, ...]], dict[str, str]] = {}

    def __call__(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def split(self, x: str, parts: int, axis: int = -1) -> list[str]:
        names = [f"part_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], names, axis=axis, num_outputs=parts))
        return names

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        name = name or f"tensor_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self._once(np.array(values, np.int64))

    def whole(self, value: int) -> str:
        return self._once(np.array(value, np.int64))

    def floats(self, value: float) -> str:
        return self._once(np.array(value, np.float32))

    def matrix(self, name: str, weight: np.ndarray) -> str:
        """A weight (out, in). A reader computes it once, since it depends on no input."""
        grid = self._grid(name, weight)
        out = grid["codes"].removesuffix("codes") + "numbers"
        self.matrices[out] = weight.shape
        return self._numbers(grid, weight.shape[1], out=out)

    def rows(self, name: str, table: np.ndarray, ids: str) -> str:
        """Rows of a table by number; of a grid only these are turned into numbers."""
        grid = self._grid(name, table)
        return self._numbers({part: self("Gather", grid[part], ids, axis=0) for part in grid}, table.shape[1])

    def _numbers(self, grid: dict[str, str], width: int, out: str | None = None) -> str:
        """What `from_grid` computes."""
        if "scale" not in grid:
            return self("Identity", grid["codes"], out=out)
        codes, rest = grid["codes"], {part: self._wide(grid[part]) for part in ("scale", "least") if part in grid}
        if "least" in rest:
            low = self("BitwiseAnd", codes, self._once(np.array(15, np.uint8)))
            high = self("BitShift", codes, self._once(np.array(4, np.uint8)), direction="RIGHT")
            codes = self("Concat", low, high, axis=-1)
        numbers = self("Mul", self("Cast", codes, to=TensorProto.FLOAT), rest["scale"])
        if "least" in rest:
            numbers = self("Add", numbers, rest["least"])
        return self("Reshape", numbers, self.ints(-1, width), out=out)

    def _wide(self, half: str) -> str:
        return self("Unsqueeze", self("Cast", half, to=TensorProto.FLOAT), self.ints(-1))

    def _grid(self, name: str, weight: np.ndarray) -> dict[str, str]:
        """Tensors of a weight; one that is used twice, as tied embeddings are, is stored once."""
        where = (weight.__array_interface__["data"][0], weight.shape)
        if where not in self._grids:
            grid = to_grid(weight) or {"codes": weight}
            self._grids[where] = {part: self.constant(array, f"{name}.{part}") for part, array in grid.items()}
        return self._grids[where]

    def _once(self, array: np.ndarray) -> str:
        what = (array.dtype.str, array.shape, array.tobytes())
        if what not in self._known:
            self._known[what] = self.constant(array)
        return self._known[what]


def _half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


def _on_grid(
    blocks: np.ndarray, scale: np.ndarray, least: np.ndarray, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    wide, base = scale.astype(np.float32)[..., None], least.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(wide == 0, 0, np.rint((blocks - base) / wide))
        codes = np.nan_to_num(codes).clip(low, high).astype(np.float32)
        same = bool((codes * wide + base == blocks).all())
    return (codes.astype(np.int16), scale, least) if same else None
