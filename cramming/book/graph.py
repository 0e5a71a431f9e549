"""The frozen model as a graph of ONNX: one that decodes, and one that has the gradient to mem.

Both are made of the same layers. A layer is written once forward, and hands on the way back: a function from the
gradient of what it gives to the gradient of what it was given. The decoding graph never takes it.

Weights that came from a 4-bit or 8-bit file lie on a coarse grid, block by block. The grid is found again and stored,
and the graph computes the float32 numbers from it as the file's own reader did. So the export is small, and no weight
differs in any bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cramming.errors import CrammingError
from cramming.models import FrozenLM

BLOCK = 32  # numbers that share a scale, in the formats Q4_1 and Q8_0 of GGUF
OPSET, IR = 18, 9  # what readers of 2023 and later know
LEAST = float(np.finfo(np.float32).min)

# From the name of a gradient to that of the gradient before; nodes are added when it is called.
Back = Callable[[str], str]


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
    g = _Nodes()
    llama = _Llama(lm, g)
    x = g("Concat", "mem", llama.embeds("ids"), axis=0)
    llama.place(x, g("Squeeze", g("Shape", "past", start=2, end=3)))
    pasts, presents = g.split("past", 2 * llama.layers, axis=0), list[str]()
    for layer in range(llama.layers):
        before = [g("Squeeze", old, g.ints(0)) for old in pasts[2 * layer : 2 * layer + 2]]
        x, now, _ = llama.attention(x, layer, before)
        presents += [g("Unsqueeze", one, g.ints(0)) for one in now]
        x, _ = llama.mlp(x, layer)
    llama.head(x, out="logits")
    g("Concat", *presents, axis=0, out="present")
    past = (2 * llama.layers, llama.shared)
    return g.model(
        lm,
        {"mem": ("k", lm.width), "ids": ("n",), "past": (*past, "before", llama.wide)},
        {"logits": ("fed", lm.vocab_size), "present": (*past, "after", llama.wide)},
    )


def to_gradient(lm: FrozenLM) -> onnx.ModelProto:
    """The model as a graph of one step of cramming: from mem and a passage to the gradient of the loss to mem.

    The loss is that of `cramming.engine.score`: the weighted sum of the cross-entropies of all tokens, logits divided
    by a temperature.

    Inputs: mem, float32 (k, d); ids, int64 (n,), all tokens of the passage; weights, float32 (n,), of each token in
    the loss; temperature, float32 (). Outputs: nats, float32 (n,), cross-entropies at the true logits; gaps, float32
    (n,), logit of the true token minus the best other one; likeliest, int64 (n,), the token said in each place;
    gradient, float32 (k, d).

    Raises:
        CrammingError: As `to_onnx` does.
    """
    g = _Nodes()
    llama = _Llama(lm, g)
    k = g("Shape", "mem", start=0, end=1)
    x = g("Concat", "mem", llama.embeds(g("Slice", "ids", g.ints(0), g.ints(-1))), axis=0)
    llama.place(x)
    backs = list[Back]()
    for layer in range(llama.layers):
        x, _, back = llama.attention(x, layer)
        backs.append(back)
        x, back = llama.mlp(x, layer)
        backs.append(back)
    first = g("Sub", k, g.ints(1))  # the position that predicts token 0
    logits, back = llama.head(g("Slice", x, first, g("Shape", x, start=0, end=1)))
    g("ArgMax", logits, out="likeliest", axis=1, keepdims=0)
    at = g("Unsqueeze", "ids", g.ints(1))  # (n, 1)
    true = g("GatherElements", logits, at, axis=1)
    others = g("ScatterElements", logits, at, g("Expand", g.floats(LEAST), g("Shape", true)), axis=1)
    other = g("ReduceMax", others, g.ints(1), keepdims=1)
    lowered = g("Sub", logits, g("Max", true, other))  # (n, V), 0 at most
    g("Squeeze", g("Sub", true, other), g.ints(1), out="gaps")
    total = g("ReduceSum", g("Exp", lowered), g.ints(1), keepdims=1)
    nats = g("Sub", g("Log", total), g("GatherElements", lowered, at, axis=1))
    g("Squeeze", nats, g.ints(1), out="nats")
    # Of the loss to the logits: weight / temperature * (softmax - one-hot).
    share = g("Div", g("Unsqueeze", "weights", g.ints(1)), "temperature")
    softmax = g("Softmax", g("Div", lowered, "temperature"), axis=1)
    gradient = g("ScatterElements", g("Mul", softmax, share), at, g("Neg", share), axis=1, reduction="add")
    unread = g("Expand", g.floats(0), g("Concat", first, g.ints(lm.width), axis=0))  # before the first prediction
    gradient = g("Concat", unread, back(gradient), axis=0)
    for back in reversed(backs):
        gradient = back(gradient)
    g("Slice", gradient, g.ints(0), k, out="gradient")
    return g.model(
        lm,
        {"mem": ("k", lm.width), "ids": ("n",), "weights": ("n",), "temperature": ()},
        {"nats": ("n",), "gaps": ("n",), "likeliest": ("n",), "gradient": ("k", lm.width)},
    )


class _Llama:
    """The parts of a Llama as nodes of a graph; what depends on positions waits for `place`."""

    def __init__(self, lm: FrozenLM, g: _Nodes) -> None:
        config: Any = lm.model.config
        if config.model_type != "llama" or str(lm.dtype) != "torch.float32":
            raise CrammingError(
                f"{lm.name} is {config.model_type} in {str(lm.dtype).removeprefix('torch.')}: export a Llama in "
                "float32, such as smollm2-135m"
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
                raise CrammingError(
                    f"{lm.name} has {name} {found!r}: the export knows {known!r} only, use another model"
                )
        self.g, self.epsilon = g, config.rms_norm_eps
        self.weights = {name: tensor.detach().cpu().numpy() for name, tensor in lm.model.state_dict().items()}
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.shared = config.num_key_value_heads
        self.wide = config.head_dim or config.hidden_size // config.num_attention_heads
        self.turns = 1 / rope["rope_theta"] ** (np.arange(0, self.wide, 2, dtype=np.float32) / np.float32(self.wide))

    def embeds(self, ids: str) -> str:
        """Of tokens (n,), shape (n, d)."""
        name = "model.embed_tokens.weight"
        return self.g.rows(name, self.weights[name], ids)

    def place(self, x: str, before: str | None = None) -> None:
        """Tell what is fed, (t, d), and how many positions went before it."""
        g = self.g
        start = before or g.whole(0)
        end = g("Add", start, g("Squeeze", g("Shape", x, start=0, end=1)))
        positions = g("Unsqueeze", g("Range", start, end, g.whole(1)), g.ints(1))
        everywhere = g("Unsqueeze", g("Range", g.whole(0), end, g.whole(1)), g.ints(0))
        self.mask = g("Where", g("LessOrEqual", everywhere, positions), g.floats(0), g.floats(LEAST))
        angles = g("Mul", g("Cast", positions, to=TensorProto.FLOAT), g.constant(self.turns.astype(np.float32)[None]))
        angles = g("Concat", angles, angles, axis=-1)
        self.cosines, self.sines = g("Cos", angles), g("Sin", angles)

    def attention(self, x: str, layer: int, before: list[str] | None = None) -> tuple[str, tuple[str, str], Back]:
        """Norm, attention and what was there; keys and values too, those before among them. Back, if none were."""
        g, at = self.g, f"model.layers.{layer}"
        h, norm_back = self._norm(x, f"{at}.input_layernorm.weight")
        linear = [self._linear(h, f"{at}.self_attn.{name}_proj.weight") for name in "qkv"]
        (query, query_back), (key, key_back), (value, value_back) = linear
        query, key, value = map(self._apart, (query, key, value), (self.heads, self.shared, self.shared))
        keys, values = self._rotated(key), value
        if before is not None:
            keys, values = (g("Concat", old, new, axis=1) for old, new in zip(before, (keys, values), strict=True))
        # Heads that share keys and values: an axis of their own.
        grouped = g("Reshape", self._rotated(query), g.ints(self.shared, self.heads // self.shared, -1, self.wide))
        some_keys, some_values = (g("Unsqueeze", one, g.ints(1)) for one in (keys, values))
        scores = g("Mul", g("MatMul", grouped, self._across(some_keys)), g.floats(self.wide**-0.5))
        share = g("Softmax", g("Add", scores, self.mask), axis=-1)
        mixed = g("Reshape", g("MatMul", share, some_values), g.ints(self.heads, -1, self.wide))
        out, out_back = self._linear(self._together(mixed), f"{at}.self_attn.o_proj.weight")

        def back(dy: str) -> str:
            split = g.ints(self.shared, self.heads // self.shared, -1, self.wide)
            dmixed = g("Reshape", self._apart(out_back(dy), self.heads), split)
            dshare = g("Mul", g("MatMul", dmixed, self._across(some_values)), share)
            dscores = g("Sub", dshare, g("Mul", share, g("ReduceSum", dshare, g.ints(-1), keepdims=1)))
            dscores = g("Mul", dscores, g.floats(self.wide**-0.5))
            dquery = g("Reshape", g("MatMul", dscores, some_keys), g.ints(self.heads, -1, self.wide))
            # Of a key and a value: summed over the heads that share them.
            dkey = g("ReduceSum", g("MatMul", self._across(dscores), grouped), g.ints(1), keepdims=0)
            dvalue = g("ReduceSum", g("MatMul", self._across(share), dmixed), g.ints(1), keepdims=0)
            dquery, dkey = self._rotated(dquery, back=True), self._rotated(dkey, back=True)
            parts = ((query_back, dquery), (key_back, dkey), (value_back, dvalue))
            return g("Add", dy, norm_back(g("Sum", *(one(self._together(part)) for one, part in parts))))

        return g("Add", x, out), (keys, values), back

    def mlp(self, x: str, layer: int) -> tuple[str, Back]:
        """Norm, gated layer and what was there."""
        g, at = self.g, f"model.layers.{layer}"
        h, norm_back = self._norm(x, f"{at}.post_attention_layernorm.weight")
        gate, gate_back = self._linear(h, f"{at}.mlp.gate_proj.weight")
        up, up_back = self._linear(h, f"{at}.mlp.up_proj.weight")
        opened = g("Sigmoid", gate)
        active = g("Mul", gate, opened)
        down, down_back = self._linear(g("Mul", active, up), f"{at}.mlp.down_proj.weight")

        def back(dy: str) -> str:
            dgated = down_back(dy)
            slope = g("Add", opened, g("Mul", active, g("Sub", g.floats(1), opened)))  # of the SiLU
            dgate, dup = g("Mul", g("Mul", dgated, up), slope), g("Mul", dgated, active)
            dh = g("Add", gate_back(dgate), up_back(dup))
            return g("Add", dy, norm_back(dh))

        return g("Add", x, down), back

    def head(self, x: str, out: str | None = None) -> tuple[str, Back]:
        """Logits (t, V) of what the last layer gave."""
        h, norm_back = self._norm(x, "model.norm.weight")
        logits, back = self._linear(h, "lm_head.weight", out)
        return logits, lambda dy: norm_back(back(dy))

    def _norm(self, x: str, name: str) -> tuple[str, Back]:
        g, weight = self.g, self.g.constant(self.weights[name], name)
        mean = g("ReduceMean", g("Mul", x, x), g.ints(-1), keepdims=1)
        size = g("Sqrt", g("Add", mean, g.floats(self.epsilon)))
        scaled = g("Div", x, size)

        def back(dy: str) -> str:
            dscaled = g("Mul", dy, weight)
            along = g("ReduceMean", g("Mul", dscaled, scaled), g.ints(-1), keepdims=1)
            return g("Div", g("Sub", dscaled, g("Mul", scaled, along)), size)

        return g("Mul", weight, scaled), back

    def _linear(self, x: str, name: str, out: str | None = None) -> tuple[str, Back]:
        matrix = self.g.matrix(name, self.weights[name])
        return self.g("Gemm", x, matrix, out=out, transB=1), lambda dy: self.g("Gemm", dy, matrix)

    def _rotated(self, x: str, *, back: bool = False) -> str:
        """Turned by the angles of its positions, or back, which is also the gradient's way."""
        first, second = self.g.split(x, 2)
        turned = self.g("Concat", self.g("Neg", second), first, axis=-1)
        return self.g("Sub" if back else "Add", self.g("Mul", x, self.cosines), self.g("Mul", turned, self.sines))

    def _apart(self, x: str, heads: int) -> str:
        return self.g("Transpose", self.g("Reshape", x, self.g.ints(0, heads, self.wide)), perm=[1, 0, 2])

    def _together(self, x: str) -> str:
        merged = self.g("Transpose", x, perm=[1, 0, 2])
        return self.g("Flatten", merged, axis=1)

    def _across(self, x: str) -> str:
        return self.g("Transpose", x, perm=[0, 1, 3, 2])


class _Nodes:
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

    def model(
        self, lm: FrozenLM, inputs: Mapping[str, tuple[int | str, ...]], outputs: Mapping[str, tuple[int | str, ...]]
    ) -> onnx.ModelProto:
        """The graph, with the shape of each input and output: tokens are int64, all else float32."""

        def ports(shapes: Mapping[str, tuple[int | str, ...]]) -> list[onnx.ValueInfoProto]:
            kinds = {"ids": TensorProto.INT64, "likeliest": TensorProto.INT64}
            return [
                helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
                for name, shape in shapes.items()
            ]

        graph = helper.make_graph(
            self.nodes, lm.name, ports(inputs), ports(outputs), self.tensors, value_info=ports(self.matrices)
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        helper.set_model_props(model, {"model_digest": lm.digest, "provenance": lm.provenance})
        return model

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
