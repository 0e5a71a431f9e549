"""Scale on paper: what a plan needs on GPUs in hours, dollars, memory and files, before anything is rented.

Nothing here runs a model larger than the one at hand. Operations come from `cramming.sweep.estimate`, peak rates from
datasheets; the share of the peak that a step reaches is assumed, as a range.
"""

from __future__ import annotations

import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from cramming.engine import HEAD_ROWS, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.store import SCHEMA, Store, run_key
from cramming.sweep import Plan

DATA = Path(__file__).resolve().parent.parent / "data" / "paper"
BYTES = {"float32": 4, "bfloat16": 2}
GB = 1e9
FLOAT32 = 4  # bytes of what is kept in float32 whatever the format of the weights


def devices(prices: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Devices by name, from data/paper/devices.csv.

    Args:
        prices: Dollars an hour to put in place of those assumed there.

    Returns:
        Index device; columns memory_gb, bfloat16_ops and float32_ops (peak operations a second, dense), bandwidth_gbs
        (of the memory), link_gbs (between devices, both directions), dollars_per_hour (assumed), source, date.

    Raises:
        CrammingError: If a price is given for a device that is not there.
    """
    frame = pd.read_csv(DATA / "devices.csv", dtype={"dollars_per_hour": float}).set_index("device")
    for name, price in (prices or {}).items():
        if name not in frame.index:
            raise CrammingError(f"device {name!r} is not in devices.csv: use one of {', '.join(frame.index)}")
        frame.loc[name, "dollars_per_hour"] = price
    return frame


@dataclass(frozen=True)
class Shape:
    """What of a transformer decides its memory.

    Attributes:
        layers: Number of layers.
        width: Of the hidden state.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        head_size: Numbers of a head.
        ffn: Width of the feed-forward part.
        gated: Whether that part multiplies two products, as in Llama.
        one_norm: Whether attention and feed-forward part read the same hidden state, as in Pythia.
        fused_qkv: Whether queries, keys and values are one tensor, of which the whole stays if a part does.
        wide_norm: Whether norms work in float32 in any format.
        vocab: Rows of the output head.
        tied: Whether the head is the input table.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    gated: bool
    one_norm: bool
    fused_qkv: bool
    wide_norm: bool
    vocab: int
    tied: bool

    @property
    def weights(self) -> int:
        """Parameters, biases and norms left out."""
        attention = 2 * self.width * self.head_size * (self.heads + self.kv_heads)
        feed_forward = (3 if self.gated else 2) * self.width * self.ffn
        return self.layers * (attention + feed_forward) + (1 if self.tied else 2) * self.vocab * self.width


def shapes() -> dict[str, Shape]:
    """Shapes by name, from data/paper/shapes.csv: the paper's transformers and one of 70 billion parameters."""
    rows = pd.read_csv(DATA / "shapes.csv").to_dict("records")
    return {
        str(row["name"]): Shape(**{str(key): value for key, value in row.items() if key != "name"}) for row in rows
    }


def shape_of(lm: FrozenLM) -> Shape:
    """The shape of a loaded model.

    Raises:
        CrammingError: If it is not one of the transformers that are known here.
    """
    config = lm.model.config
    kind = config.model_type
    if kind not in ("llama", "olmo", "gpt_neox", "opt"):
        raise CrammingError(f"the shape of a {kind} is not known here: use a llama, olmo, gpt_neox or opt")
    heads = config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        ffn=config.ffn_dim if kind == "opt" else config.intermediate_size,
        gated=kind in ("llama", "olmo"),
        one_norm=kind == "gpt_neox" and config.use_parallel_residual,
        fused_qkv=kind == "gpt_neox",
        wide_norm=kind in ("llama", "olmo"),
        vocab=lm.vocab_size,
        tied=config.tie_word_embeddings,
    )


def kept(shape: Shape, dtype: str = "bfloat16", *, checkpoint: bool = False, ways: int = 1) -> float:
    """Bytes that the backward pass needs of one position: what a forward pass must keep.

    Frozen weights need no gradient, so a matrix product keeps no input. What stays of a layer, with b bytes a number:
    what its two norms read (2 x width; one where both parts read the same; float32 in Llama), queries and the result
    of attention (2 x heads x head_size), keys and values (2 x kv_heads x head_size), a float32 a head (the sum of
    attention's exponentials, for fused attention, which never holds the attention matrix), and of the feed-forward
    part 3 x ffn where it is gated (gate, its activation, the other product), else 1 x ffn. To these the model adds
    what the last norm reads, and the gradient that the output head hands back. Logits are another matter.

    Args:
        shape: Of the model.
        dtype: Number format of weights and activations.
        checkpoint: Whether only the input of each layer is kept, and the rest computed a second time, a layer at once.
        ways: Devices that share heads and the feed-forward part of each layer (tensor parallel). Norms are not shared.

    Raises:
        CrammingError: If the format is unknown, or there are less than one way.
    """
    b = _bytes(dtype)
    if ways < 1:
        raise CrammingError(f"ways is {ways}: at least one device is needed")
    norm = shape.width * (FLOAT32 if shape.wide_norm else b)
    inner = 2 * shape.head_size * (shape.heads + shape.kv_heads)
    inner += 2 * shape.width if shape.fused_qkv else 0
    inner += (3 if shape.gated else 1) * shape.ffn
    layer = (1 if shape.one_norm else 2) * norm + (b * inner + FLOAT32 * shape.heads) / ways
    ends = norm + b * shape.width
    return (shape.layers * b * shape.width + layer if checkpoint else shape.layers * layer) + ends


def memory(
    shape: Shape,
    *,
    passages: int,
    length: int,
    dtype: str = "bfloat16",
    n_vectors: int = 1,
    head_rows: int | None = HEAD_ROWS,
    checkpoint: bool = False,
    ways: int = 1,
) -> dict[str, float]:
    """Bytes on each device while so many passages are crammed at once.

    Args:
        shape: Of the model.
        passages: At once.
        length: Tokens of each; all of them and mem but the last token are fed.
        dtype: Number format.
        n_vectors: Mem vectors of each.
        head_rows: Positions that go through the output head together, as in `cramming.engine`; None: all.
        checkpoint: See `kept`.
        ways: Devices that share the model.

    Returns:
        weights; activations (`kept`, of all positions); logits (in the format and in float32, and where all are held
        once more for the gradient); optimiser (mem, its gradient and two moments, float32); keys_values (of decoding,
        which holds no activations: not part of the sum of the others).
    """
    b, positions = _bytes(dtype), passages * (length - 1 + n_vectors)
    rows = positions if head_rows is None else min(head_rows, positions)
    each = b + FLOAT32 * (2 if head_rows is None else 1)
    return {
        "weights": b * shape.weights / ways,
        "activations": positions * kept(shape, dtype, checkpoint=checkpoint, ways=ways),
        "logits": rows * shape.vocab * each / ways,
        "optimiser": 4 * FLOAT32 * passages * n_vectors * shape.width,
        "keys_values": b * positions * shape.layers * 2 * shape.kv_heads * shape.head_size / ways,
    }


def at_once(parts: Mapping[str, float]) -> float:
    """Bytes of `memory` that a step holds together."""
    return sum(value for name, value in parts.items() if name != "keys_values")


def ways_needed(memory_gb: float, shape: Shape, *, usable: float = 0.9, **how: Any) -> int | None:
    """Least number of devices, a power of two up to the heads of keys and values, on which a step fits.

    Args:
        memory_gb: Of a device.
        shape: Of the model.
        usable: Share of the memory that the step may take; the rest is for kernels and what fragments.
        how: As for `memory`.

    Returns:
        The number; None if not even the most devices do.
    """
    for ways in (2**i for i in range(int(math.log2(shape.kv_heads)) + 1)):
        if at_once(memory(shape, ways=ways, **how)) <= usable * memory_gb * GB:
            return ways
    return None


def talk_share(shape: Shape, device: pd.Series, ways: int, utilisation: float, dtype: str = "bfloat16") -> float:
    """Seconds that devices exchange hidden states, over seconds they compute, when they share each layer.

    Attention and feed-forward part end in a sum over devices, forward and backward: four a layer. Summed in a ring, a
    device sends and receives 2 (n - 1) / n times the hidden state each time, over half the link each way.
    """
    sent = 4 * shape.layers * shape.width * _bytes(dtype) * 2 * (ways - 1) / ways
    computed = 4 * shape.weights / ways / (device[f"{dtype}_ops"] * utilisation)
    return float(sent / (device["link_gbs"] / 2 * GB) / computed)


def attention_share(shape: Shape, length: int) -> float:
    """Operations of attention proper, which 4 a parameter and position leave out, over those.

    Position t meets t others: 4 t operations a number of the heads forward, twice as many backward; on average t is
    half the length.
    """
    return 6 * length * shape.layers * shape.heads * shape.head_size / (4 * shape.weights)


def hours(operations: ArrayLike, peak: float, utilisation: float) -> Any:
    """Hours of a device: operations over the rate it sustains.

    Raises:
        CrammingError: If the utilisation is no share above zero.
    """
    if not 0 < utilisation <= 1:
        raise CrammingError(f"utilisation is {utilisation}: a share of the peak above 0, at most 1, is expected")
    return np.asarray(operations) / (peak * utilisation) / 3600


def by_model(plan: Plan, estimate: pd.DataFrame, *, passages: int, dtype: str = "bfloat16") -> pd.DataFrame:
    """What the paper's part of a plan takes, model by model.

    Args:
        plan: With the paper's runs under recipe paper.
        estimate: `cramming.sweep.estimate` of it.
        passages: Crammed at once, for the memory.
        dtype: Number format.

    Returns:
        One row a model: model, parameters, runs, tokens, token_passes and operations (at most), longest (tokens),
        memory_gb (of a step at the longest length with one mem vector; NaN for a model without a shape here).
    """
    theirs = estimate[estimate["recipe"] == "paper"]
    sums = theirs.groupby("model", sort=False)[["runs", "tokens", "token_passes", "operations"]].sum().reset_index()
    known, longest, memories = shapes(), [], []
    for name in sums["model"]:
        runs = [e for e in plan.on(name) if e.recipe == "paper"]
        longest.append(max(length for e in runs if e.n_vectors == 1 for length in e.lengths))
        bytes_ = (
            at_once(memory(known[name], passages=passages, length=longest[-1], dtype=dtype))
            if name in known
            else math.nan
        )
        memories.append(bytes_ / GB)
    parameters = sums["operations"] / sums["token_passes"] / 4
    return sums.assign(parameters=parameters, longest=longest, memory_gb=memories)


def bill(
    operations: float, some: pd.DataFrame, utilisation: tuple[float, float], ratio: float, dtype: str = "bfloat16"
) -> pd.DataFrame:
    """What so many operations take on each device, by the paper's recipe and by ours.

    Args:
        operations: By the paper's recipe.
        some: From `devices`.
        utilisation: Least and greatest share of the peak.
        ratio: Token passes per exact token by the paper's recipe over those by ours.
        dtype: Number format.

    Returns:
        One row a device: device, hours and dollars (each _low at the greater utilisation, _high at the less), and the
        same with `ours_` before.
    """
    rows = []
    for name, device in some.iterrows():
        ends = {
            end: float(hours(operations, device[f"{dtype}_ops"], share))
            for end, share in (("high", utilisation[0]), ("low", utilisation[1]))
        }
        row: dict[str, Any] = {"device": name}
        for who, over in (("", 1.0), ("ours_", ratio)):
            for end, value in ends.items():
                row[f"{who}hours_{end}"] = value / over
                row[f"{who}dollars_{end}"] = value / over * device["dollars_per_hour"]
        rows.append(row)
    return pd.DataFrame(rows)


def passages_bill(
    counts: Sequence[int],
    token_passes: Mapping[str, float],
    shape: Shape,
    device: pd.Series,
    utilisation: tuple[float, float],
    dtype: str = "bfloat16",
) -> pd.DataFrame:
    """What so many passages take, one run each.

    Args:
        counts: Numbers of passages.
        token_passes: Of one passage, at most, by what is run.
        shape: Of the model.
        device: A row of `devices`.
        utilisation: Least and greatest share of the peak.
        dtype: Number format.

    Returns:
        One row a count and run: passages, what, hours_low, hours_high, dollars_low, dollars_high, days_1, days_8 and
        days_64 (of wall time on so many devices, at the less utilisation), files (two a run until they are merged),
        vectors_gb.
    """
    rows = []
    for n in counts:
        for what, passes in token_passes.items():
            operations = 4 * shape.weights * passes * n
            high, low = (float(hours(operations, device[f"{dtype}_ops"], share)) for share in utilisation)
            price = device["dollars_per_hour"]
            rows.append(
                {"passages": n, "what": what, "hours_low": low, "hours_high": high}
                | {"dollars_low": low * price, "dollars_high": high * price}
                # A run does not divide: more devices than passages are of no use.
                | {f"days_{d}": high / 24 / n * math.ceil(n / d) for d in (1, 8, 64)}
                | {"files": 2 * n, "vectors_gb": n * shape.width * FLOAT32 / GB}
            )
    return pd.DataFrame(rows)


def memory_steps(shape: Shape, *, passages: int, length: int, dtype: str = "bfloat16") -> pd.DataFrame:
    """The memory of a step as one thing after the other is done about it.

    Returns:
        One row a step: what, the parts of `memory` in GB, total (without keys_values), operations (a parameter and
        token pass), and the arguments passages, head_rows, checkpoint.
    """
    ways: list[tuple[str, dict[str, Any]]] = [
        ("all logits at once", {"passages": passages, "head_rows": None, "checkpoint": False}),
        ("head in parts, as here", {"passages": passages, "head_rows": HEAD_ROWS, "checkpoint": False}),
        ("and checkpointed", {"passages": passages, "head_rows": HEAD_ROWS, "checkpoint": True}),
        ("and one passage at once", {"passages": 1, "head_rows": HEAD_ROWS, "checkpoint": True}),
    ]
    rows = []
    for what, how in ways:
        parts = memory(shape, length=length, dtype=dtype, **how)
        row = {"what": what} | {name: value / GB for name, value in parts.items()}
        rows.append(row | {"total": at_once(parts) / GB, "operations": 6 if how["checkpoint"] else 4} | how)
    return pd.DataFrame(rows)


def padding(lengths: Sequence[int], batch: int) -> float:
    """Share of fed positions that is padding, if passages of these lengths go in batches, in this order."""
    batches = [np.array(lengths[i : i + batch]) for i in range(0, len(lengths), batch)]
    fed = sum(len(some) * some.max() for some in batches)
    return float(1 - sum(some.sum() for some in batches) / fed) if fed else math.nan


def measured_kept(lm: FrozenLM, passages: int, length: int) -> int:
    """Bytes that autograd keeps in one forward pass as the engine does it, weights not counted."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, lm.vocab_size, (passages, length), generator=generator).to(lm.device)
    mem = torch.randn(passages, 1, lm.width, generator=generator).to(lm.device).requires_grad_(True)
    weights = torch.full((passages, length), 1 / length, device=lm.device)
    frozen = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # held, so that no other gets its address
        if storage.data_ptr() not in frozen:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        score(lm, mem, tokens, weights)
    return sum(storage.nbytes() for storage in held.values())


def store_speed(runs: int, length: int, width: int) -> dict[str, float]:
    """Write so many made-up runs to a temporary store, read and merge them; what that took, per 1,000 runs.

    Returns:
        runs; read (seconds, a shard a run), merge_gb (most that Python objects took while merging), read_merged
        (seconds, one shard), gb (of all files before merging).
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for i in range(runs):
            store.add(_made_up(i, length), torch.zeros(1, width))
        gb = sum(path.stat().st_size for path in Path(folder).iterdir()) / GB
        read = _seconds(store.frame)
        tracemalloc.start()
        try:
            store.compact()
            merge_gb = tracemalloc.get_traced_memory()[1] / GB
        finally:
            tracemalloc.stop()
        again = _seconds(store.frame)
    found = {"read": read, "merge_gb": merge_gb, "read_merged": again, "gb": gb}
    return {"runs": runs} | {name: value / runs * 1000 for name, value in found.items()}


def _made_up(i: int, length: int) -> dict[str, Any]:
    """A row of the schema with noise a token."""
    generator = np.random.default_rng(i)
    row: dict[str, Any] = {}
    for field in SCHEMA:
        kind = str(field.type)
        if kind.startswith("list"):
            noise = generator.random(length) * 100
            row[field.name] = (
                (noise > 50).tolist() if "bool" in kind else noise.astype("f4" if "float" in kind else int)
            )
        else:
            row[field.name] = {"string": f"{field.name} {i}", "int64": i, "double": float(i), "bool": True}[kind]
    return row | {"key": run_key({"made up": i})}


def _seconds(work: Callable[[], object]) -> float:
    """The shortest of three calls: other work on the machine can only lengthen one."""

    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def _bytes(dtype: str) -> int:
    if dtype not in BYTES:
        raise CrammingError(f"dtype {dtype!r} has no size here: use one of {', '.join(BYTES)}")
    return BYTES[dtype]
