"""Scale on paper: what a plan needs on GPUs in hours, dollars, memory and files, before anything is rented.

Nothing here runs a model larger than the one at hand. Operations come from `cramming.results.estimate`, peak rates in
bfloat16 from datasheets; the share of the peak that a step reaches is assumed, as a range.
"""

from __future__ import annotations

import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming.engine import HEAD_ROWS, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.paths import BENCHMARKS, PAPER
from cramming.recipes import recipe
from cramming.results import estimate
from cramming.results.estimate import large, spend
from cramming.results.plans import Plan, load_plan
from cramming.results.store import SCHEMA, Store, run_key
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold
from cramming.studies._page import Page as AnyPage

BYTES = {"float32": 4, "bfloat16": 2}
GB = 1e9
FLOAT32 = 4  # bytes of what is kept in float32 whatever the format of the weights
USABLE = 0.9  # share of a device's memory that a step may take; the rest is for kernels and what fragments
SMALL, MIDDLE, BIG = "Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B"  # of the three, `MIDDLE` is in the paper's grid


class Page(AnyPage):
    """A plan put on GPUs, by the price of an exact token in other runs.

    Args:
        scale: Name of the plan whose runs give that price, or its path.
        page: The page of that plan whose runs they are.
        grid: Name of the plan to put on GPUs.
        device: For tables of one device, a name from data/paper/devices.csv.
        prices: See `devices`.
        utilisation: Least and greatest share of the peak rate that a step reaches.
        passages: Crammed at once, for memory.
        length: Tokens of a passage, for memory and for many passages.
    """

    def __init__(
        self,
        scale: str,
        page: str,
        grid: str,
        *,
        device: str,
        prices: Mapping[str, float],
        utilisation: tuple[float, float],
        passages: int,
        length: int,
    ) -> None:
        super().__init__(page, scale)
        self.device, self.utilisation, self.passages, self.length = device, utilisation, passages, length
        self.ours = self.results[self.results["recipe"] == "horizon"]
        self.benchmark = pd.read_parquet(BENCHMARKS / "step_cost.parquet")
        self.steps = estimate.step_cost(self.benchmark)
        self.summary = estimate.systems_summary(estimate.systems(self.results), self.steps)
        self.ratio = float(self.summary.loc["paper", "passes_ratio"])
        self.devices, self.shapes, self.grid = devices(prices), shapes(), load_plan(grid)
        self.one = self.devices.loc[device]

    @cached_property
    def setting(self) -> str:
        """What was measured, and on what; all else is arithmetic."""
        return f"Nothing ran on a GPU. Measured: {super().setting}"

    @cached_property
    def work(self) -> pd.DataFrame:
        """From `by_model`, of the whole grid."""
        return by_model(self.grid, estimate.plan_cost(self.grid), passages=self.passages)

    @cached_property
    def bills(self) -> pd.DataFrame:
        """From `bill`, of the whole grid, by device."""
        return bill(self.work["operations"].sum(), self.devices, self.utilisation, self.ratio).set_index("device")

    @property
    def reached(self) -> str:
        """The share of the peak rate that is assumed, from the least to the greatest."""
        return " to ".join(f"{share:.0%}" for share in self.utilisation)

    @cached_property
    def memory(self) -> dict[str, pd.DataFrame]:
        """From `memory_steps`, by model."""
        return {
            name: memory_steps(self.shapes[name], passages=self.passages, length=self.length)
            for name in (SMALL, MIDDLE, BIG)
        }


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
    rows = pd.read_csv(PAPER / "shapes.csv").to_dict("records")
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


def ways_needed(memory_gb: float, shape: Shape, **how: Any) -> int | None:
    """Least number of devices, a power of two up to the heads of keys and values, on which a step fits.

    Args:
        memory_gb: Of a device; a step may take `USABLE` of it.
        shape: Of the model.
        how: As for `memory`.

    Returns:
        The number; None if not even the most devices do.
    """
    for ways in (2**i for i in range(int(math.log2(shape.kv_heads)) + 1)):
        if at_once(memory(shape, ways=ways, **how)) <= USABLE * memory_gb * GB:
            return ways
    return None


def talk_share(shape: Shape, device: pd.Series, ways: int, utilisation: float) -> float:
    """Seconds that devices exchange hidden states, over seconds they compute, when they share each layer.

    Attention and feed-forward part end in a sum over devices, forward and backward: four a layer. Summed in a ring, a
    device sends and receives 2 (n - 1) / n times the hidden state each time, over half the link each way.
    """
    sent = 4 * shape.layers * shape.width * BYTES["bfloat16"] * 2 * (ways - 1) / ways
    computed = 4 * shape.weights / ways / (device["bfloat16_ops"] * utilisation)
    return float(sent / (device["link_gbs"] / 2 * GB) / computed)


def attention_share(shape: Shape, length: int) -> float:
    """Operations of attention proper, which 4 a parameter and position leave out, over those.

    Position t meets t others: 4 t operations a number of the heads forward, twice as many backward; on average t is
    half the length.
    """
    return 6 * length * shape.layers * shape.heads * shape.head_size / (4 * shape.weights)


def _bytes(dtype: str) -> int:
    if dtype not in BYTES:
        raise CrammingError(f"dtype {dtype!r} has no size here: use one of {', '.join(BYTES)}")
    return BYTES[dtype]


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
    frame = pd.read_csv(PAPER / "devices.csv", dtype={"dollars_per_hour": float}).set_index("device")
    for name, price in (prices or {}).items():
        if name not in frame.index:
            raise CrammingError(f"device {name!r} is not in devices.csv: use one of {', '.join(frame.index)}")
        frame.loc[name, "dollars_per_hour"] = price
    return frame


def hours(operations: float, peak: float, utilisation: float) -> float:
    """Hours of a device: operations over the rate it sustains.

    Raises:
        CrammingError: If the utilisation is no share above zero.
    """
    if not 0 < utilisation <= 1:
        raise CrammingError(f"utilisation is {utilisation}: a share of the peak above 0, at most 1, is expected")
    return operations / (peak * utilisation) / 3600


def by_model(plan: Plan, estimate: pd.DataFrame, *, passages: int) -> pd.DataFrame:
    """What the paper's part of a plan takes, model by model.

    Args:
        plan: With the paper's runs under recipe paper.
        estimate: `cramming.results.estimate.plan_cost` of it.
        passages: Crammed at once, for the memory.

    Returns:
        One row a model: model, parameters, runs, token_passes and operations (at most), longest (tokens), memory_gb
        (of a step at the longest length with one mem vector; NaN for a model without a shape here).
    """
    theirs = estimate[estimate["recipe"] == "paper"]
    sums = theirs.groupby("model", sort=False)[["runs", "token_passes", "operations"]].sum().reset_index()
    known, rows = shapes(), []
    for name in sums["model"]:
        runs = [e for e in plan.on(name) if e.recipe == "paper" and e.n_vectors == 1]
        longest = max(length for e in runs for length in e.lengths)
        step = memory(known[name], passages=passages, length=longest) if name in known else None
        rows.append((longest, at_once(step) / GB if step else math.nan))
    sums[["longest", "memory_gb"]] = pd.DataFrame(rows)
    return sums.assign(parameters=sums["operations"] / sums["token_passes"] / 4)


def bill(operations: float, some: pd.DataFrame, utilisation: tuple[float, float], ratio: float) -> pd.DataFrame:
    """What so many operations take on each device, by the paper's recipe and by ours.

    Args:
        operations: By the paper's recipe.
        some: From `devices`.
        utilisation: Least and greatest share of the peak.
        ratio: Token passes per exact token by the paper's recipe over those by ours.

    Returns:
        One row a device: device, hours and dollars (each _low at the greater utilisation, _high at the less), and the
        same with `ours_` before.
    """
    rows = []
    for name, device in some.iterrows():
        row: dict[str, Any] = {"device": name}
        for end, share in zip(("high", "low"), utilisation, strict=True):
            taken = hours(operations, device["bfloat16_ops"], share)
            for who, over in (("", 1.0), ("ours_", ratio)):
                row[f"{who}hours_{end}"] = taken / over
                row[f"{who}dollars_{end}"] = taken / over * device["dollars_per_hour"]
        rows.append(row)
    return pd.DataFrame(rows)


def passages_bill(
    counts: Sequence[int],
    token_passes: Mapping[str, float],
    shape: Shape,
    device: pd.Series,
    utilisation: tuple[float, float],
) -> pd.DataFrame:
    """What so many passages take, one run each.

    Args:
        counts: Numbers of passages.
        token_passes: Of one passage, at most, by what is run.
        shape: Of the model.
        device: A row of `devices`.
        utilisation: Least and greatest share of the peak.

    Returns:
        One row a count and run: passages, what, hours_low, hours_high, dollars_low, dollars_high, days_1, days_8 and
        days_64 (of wall time on so many devices, at the less utilisation), files (two a run until they are merged).
    """
    rows = []
    for n in counts:
        for what, passes in token_passes.items():
            operations = 4 * shape.weights * passes * n
            high, low = (hours(operations, device["bfloat16_ops"], share) for share in utilisation)
            price = device["dollars_per_hour"]
            rows.append(
                {"passages": n, "what": what, "hours_low": low, "hours_high": high}
                | {"dollars_low": low * price, "dollars_high": high * price}
                # A run does not divide: more devices than passages are of no use.
                | {f"days_{d}": high / 24 / n * math.ceil(n / d) for d in (1, 8, 64)}
                | {"files": 2 * n}
            )
    return pd.DataFrame(rows)


def memory_steps(shape: Shape, *, passages: int, length: int) -> pd.DataFrame:
    """The memory of a step in bfloat16 as one thing after the other is done about it.

    Returns:
        One row a step: what, the parts of `memory` in GB, total (without keys_values), and the arguments passages,
        head_rows, checkpoint.
    """
    ways: list[tuple[str, dict[str, Any]]] = [
        ("all logits at once", {"passages": passages, "head_rows": None, "checkpoint": False}),
        ("head in parts, as here", {"passages": passages, "head_rows": HEAD_ROWS, "checkpoint": False}),
        ("and checkpointed", {"passages": passages, "head_rows": HEAD_ROWS, "checkpoint": True}),
        ("and one passage at once", {"passages": 1, "head_rows": HEAD_ROWS, "checkpoint": True}),
    ]
    rows = []
    for what, how in ways:
        parts = memory(shape, length=length, **how)
        row = {"what": what} | {name: value / GB for name, value in parts.items()}
        rows.append(row | {"total": at_once(parts) / GB} | how)
    return pd.DataFrame(rows)


def padding(lengths: Sequence[int], batch: int) -> float:
    """Share of fed positions that is padding, if passages of these lengths go in batches, in this order."""
    batches = [np.array(lengths[i : i + batch]) for i in range(0, len(lengths), batch)]
    fed = sum(len(some) * some.max() for some in batches)
    return float(1 - sum(some.sum() for some in batches) / fed) if fed else math.nan


def machines(folder: Path = BENCHMARKS / "device") -> pd.DataFrame:
    """What benchmarks/device.py found on each machine that it was run on, a number format at a time.

    Args:
        folder: Holds its files, in it or in folders of it; a part that was not run is missing in every column.

    Returns:
        One row a device and format: device, dtype, driver, model; certified (exact runs of the store decoded there)
        and still (those of them that are exact there), moved and moved_most (logits by which the margin differs,
        median and most), rate (token passes a second of the fastest step), passages and tokens (of that step), share
        (of the rate of a matrix product timed with it), alike (whether a run three times over gave the same bits),
        over (peak memory over the formula, median), pairs, horizon and stored (passages crammed, their mean exact
        horizon, and that of the store's runs at the same budget), budget (token passes of each).
    """
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.rglob("*-*.parquet")):
        frame, part = pd.read_parquet(path), path.stem.rpartition("-")[0]
        if frame.empty or part not in MACHINE_PARTS:
            continue
        first = frame.iloc[0]
        about = {name: first[name] for name in ("device", "dtype", "driver", "model")}
        parts.setdefault((first["device"], first["dtype"]), about).update(MACHINE_PARTS[part](frame))
    return pd.DataFrame(list(parts.values()), columns=MACHINE_COLUMNS)


def _steps_row(frame: pd.DataFrame) -> dict[str, Any]:
    best = frame.groupby(["passages", "tokens"])[["token_passes_per_second", "share"]].median()
    (passages, tokens), fastest = best["token_passes_per_second"].idxmax(), best.max()
    return {
        "rate": fastest["token_passes_per_second"],
        "share": best.loc[(passages, tokens), "share"],
        "passages": passages,
        "tokens": tokens,
    }


def _certified_row(frame: pd.DataFrame) -> dict[str, Any]:
    moved = (frame["margin_here"] - frame["margin"]).abs()
    return {
        "certified": len(frame),
        "still": int(frame["exact_here"].sum()),
        "moved": moved.median(),
        "moved_most": moved.max(),
    }


def _crammed_row(frame: pd.DataFrame) -> dict[str, Any]:
    both = frame.dropna(subset="stored_horizon")
    return {
        "pairs": len(both),
        "horizon": both["horizon"].mean(),
        "stored": both["stored_horizon"].mean(),
        "budget": frame["budget"].max(),
    }


# What a row of `machines` takes from the file of each part.
MACHINE_PARTS: dict[str, Callable[[pd.DataFrame], dict[str, Any]]] = {
    "certify": _certified_row,
    "step": _steps_row,
    "repeat": lambda frame: {"alike": bool(frame["same_bits"].all())},
    "memory": lambda frame: {"over": (frame["peak_bytes"] / frame["formula_bytes"]).median()},
    "cram": _crammed_row,
}
MACHINE_COLUMNS = (
    *("device", "dtype", "driver", "model", "certified", "still", "moved", "moved_most", "rate", "share"),
    *("passages", "tokens", "alike", "over", "pairs", "horizon", "stored", "budget"),
)


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
            as_held = noise.astype("f4" if "float" in kind else int)
            row[field.name] = (noise > 50).tolist() if "bool" in kind else as_held
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


def executors(frame: pd.DataFrame) -> pd.DataFrame:
    """What benchmarks/executors.py wrote, against serial in the same round.

    Args:
        frame: Its rows.

    Returns:
        Index executor, in the order measured; columns rate (token passes a second, median over rounds), ratio, low and
        high (to serial, round by round: median, least and greatest), rounds.
    """
    rate = frame["token_passes"] / frame["seconds"]
    serial = frame["executor"] == "serial"
    ratio = rate / frame["round"].map(rate[serial].set_axis(frame.loc[serial, "round"]))
    grouped = frame.assign(rate=rate, ratio=ratio).groupby("executor", sort=False)
    return grouped.agg(
        rate=("rate", "median"),
        ratio=("ratio", "median"),
        low=("ratio", "min"),
        high=("ratio", "max"),
        rounds=("round", "nunique"),
    )


def devices_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`devices` as a page shows them."""
    return pd.DataFrame(
        {
            "dollars an hour, assumed": frame["dollars_per_hour"].map("{:.2f}".format),
            "peak, 10¹² operations/s": (frame["bfloat16_ops"] / 1e12).map("{:,.0f}".format),
            "memory, GB": frame["memory_gb"],
            "link, GB/s": frame["link_gbs"].map("{:,.0f}".format),
        }
    )


def grid_bills(grid: pd.DataFrame, some: pd.DataFrame, utilisation: tuple[float, float], ratio: float) -> pd.DataFrame:
    """`bill` of each model on one device.

    Args:
        grid: From `by_model`.
        some: From `devices`, one row.
        utilisation: Least and greatest share of the peak.
        ratio: As in `bill`.

    Returns:
        The columns of `grid` and those of `bill`, one row a model.
    """
    bills = [bill(operations, some, utilisation, ratio) for operations in grid["operations"]]
    return grid.join(pd.concat(bills, ignore_index=True))


def grid_table(bills: pd.DataFrame) -> pd.DataFrame:
    """`grid_bills` as a page shows it, and the sum."""
    total = {"model": "all", **bills.drop(columns=["memory_gb", "longest"]).sum(numeric_only=True)}
    both = pd.concat([bills, pd.DataFrame([total])], ignore_index=True)
    shown = {
        said: [spend(*ends) for ends in zip(both[f"{of}_low"], both[f"{of}_high"], strict=True)]
        for of, said in (("hours", "hours"), ("dollars", "dollars"), ("ours_hours", "hours, our recipe"))
    }
    shown |= {"runs": both["runs"].map("{:,.0f}".format), "longest, tokens": both["longest"].map(words.number)}
    shown |= {"memory, GB": both["memory_gb"].map(large)}
    return pd.DataFrame(shown).set_index(pd.Index(both["model"], name="model"))


def bill_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`bill` as a page shows it."""
    shown = {}
    for who, said in (("", "paper's recipe"), ("ours_", "ours")):
        for unit in ("hours", "dollars"):
            low, high = frame[f"{who}{unit}_low"], frame[f"{who}{unit}_high"]
            shown[f"{unit}, {said}"] = [spend(*ends) for ends in zip(low, high, strict=True)]
    return pd.DataFrame(shown, index=pd.Index(frame["device"]))


def passages_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`passages_bill` as a page shows it, with what gives way first."""
    shown = pd.DataFrame(
        {
            "device hours": [spend(r.hours_low, r.hours_high) for r in frame.itertuples()],
            "dollars": [spend(r.dollars_low, r.dollars_high) for r in frame.itertuples()],
            "days on 8": frame["days_8"].map(large),
            "days on 64": frame["days_64"].map(large),
            "files": frame["files"].map("{:,}".format),
            "what gives way": [_gives_way(r) for _, r in frame.iterrows()],
        }
    )
    return shown.set_index(pd.Index(frame["passages"].map("{:,}, ".format) + frame["what"], name="passages, run"))


def _gives_way(row: pd.Series) -> str:
    """What of a bill is too much for a week on so many devices, or for one folder."""
    fits = [d for d in (1, 8, 64) if row[f"days_{d}"] <= 7]
    said = []
    if not fits:
        said.append("64 devices are not enough")
    elif fits[0] > 1:
        said.append(f"one device: --part i/{fits[0]} on {fits[0]}")
    if row["files"] > 10_000:
        said.append("files in one folder")
    return "; ".join(said) or "nothing"


def memory_table(frame: pd.DataFrame, needed: Mapping[str, list[int | None]]) -> pd.DataFrame:
    """`memory_steps` as a page shows it.

    Args:
        frame: From there.
        needed: Of each device, how many hold the step, row by row.
    """
    shown: dict[str, list[Any]] = {
        f"{part}, GB": frame[part].map(large).to_list() for part in ("total", "activations")
    }
    shown |= {name: [n or "more than 8" for n in numbers] for name, numbers in needed.items()}
    return pd.DataFrame(shown, index=pd.Index(frame["what"], name="a step"))


def executors_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`executors` as a page shows it."""
    return pd.DataFrame(
        {
            "token passes a second": summary["rate"].map("{:.0f}".format),
            "of serial": [words.within(row.ratio, row.low, row.high, 2) for row in summary.itertuples()],
        }
    ).rename_axis("executor")


@styled
def grid_figure(bills: pd.DataFrame) -> Figure:
    """Hours of one device by model, as a bar from the least to the most; the paper's recipe, and ours below it.

    Args:
        bills: From `grid_bills`.
    """
    ordered = bills.sort_values("operations", ignore_index=True)
    figure, axis = plt.subplots(figsize=(WIDTH, 0.36 * len(ordered) + 1.4))
    for who, place, colour, label in (
        ("", 0.19, COLOURS[0], "the paper's recipe"),
        ("ours_", -0.19, COLOURS[2], "our recipe, extrapolated"),
    ):
        low, high = ordered[f"{who}hours_low"], ordered[f"{who}hours_high"]
        axis.barh(ordered.index + place, high - low, left=low, height=0.34, color=colour, linewidth=0, label=label)
    axis.set_yticks(ordered.index, ordered["model"])
    least, most = ordered["ours_hours_low"].min(), ordered["hours_high"].max()
    axis.set(xscale="log", xlabel=f"hours of one {ordered['device'].iloc[0]} (log scale)", xlim=(least / 2, most * 2))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.grid(visible=False, axis="y")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def memory_steps_figure(frames: Mapping[str, pd.DataFrame], limits: Mapping[str, float]) -> Figure:
    """Memory of a step by part, as one thing after the other is done about it: one panel a model.

    Args:
        frames: `memory_steps` by model.
        limits: Memory of what a step may run on, in GB, by name.
    """
    figure, axes = plt.subplots(len(frames), 1, figsize=(WIDTH, 2.4 * len(frames) + 0.6), squeeze=False)
    for axis, (name, frame) in zip(axes[:, 0], frames.items(), strict=True):
        places, before = np.arange(len(frame)), np.zeros(len(frame))
        for part, colour, hatch in zip(("weights", "activations", "logits"), COLOURS, ("", "//", ".."), strict=False):
            axis.barh(places, frame[part], left=before, color=colour, hatch=hatch, height=0.7, edgecolor="white",
                      linewidth=0.5, label=part)  # fmt: skip
            before += frame[part].to_numpy()
        end = before.max() * 1.15
        for label, limit in limits.items():
            if limit < end:
                axis.axvline(limit, color="black", linestyle="--", linewidth=1.2)
                side, beside = ("left", 4) if limit < end / 2 else ("right", -4)
                axis.annotate(label, (limit, -0.45), (beside, 0), textcoords="offset points", fontsize="small",
                              va="bottom", ha=side)  # fmt: skip
        for place, total in zip(places, frame["total"], strict=True):
            axis.annotate(f"{total:,.0f}", (total, place), (3, 0), textcoords="offset points", fontsize="small",
                          va="center")  # fmt: skip
        axis.set_yticks(places, frame["what"])
        axis.set(title=name, xlim=(0, end), ylim=(len(frame) - 0.5, -1.0))
        axis.grid(visible=False, axis="y")
    axes[-1][0].set(xlabel="memory of a step, GB")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def show_answer(page: Page) -> Answer:
    """What the whole grid takes on one device."""
    ends = page.bills.loc[page.device]
    return Answer(
        page.setting,
        "What would the whole paper take on GPUs?",
        "With every budget spent in full, the paper's grid takes "
        f"**{spend(ends['hours_low'], ends['hours_high'])} hours of one {page.device}**, "
        f"{spend(ends['dollars_low'], ends['dollars_high'])} dollars: from an assumed {page.reached} of the peak rate "
        f"and an assumed {page.one['dollars_per_hour']:.2f} dollars an hour.",
        rests=f"Arithmetic on the budgets of {page.work['runs'].sum():,} runs of {len(page.work)} models and on "
        "datasheets, a range of assumptions and not an interval",
        sure="open",
        why="no GPU was timed, and how many runs would be solved early is not known",
    )


def show_inputs(page: Page) -> Exhibit:
    """What goes in, what of it is measured and what assumed; devices and their prices."""
    shares, passes = page.steps.loc[page.steps["what"] == "passages", "share"], page.summary["passes"]
    peaks, prices, n = page.devices["bfloat16_ops"] / 1e12, page.devices["dollars_per_hour"], page.summary["n"].min()
    rows = {
        "share of the peak that a step reaches": (page.reached, "assumed"),
        "of a large matrix product, on a CPU": (f"{shares.min():.0%} to {shares.max():.0%}", "measured here"),
        "dollars an hour": (f"{prices.min():.2f} to {prices.max():.2f}", "assumed"),
        "peak, 10¹² operations/s": (f"{peaks.min():,.0f} to {peaks.max():,.0f}", "datasheets"),
        "operations a parameter and token pass": ("4", "arithmetic"),
        "token passes of the grid": (f"{page.work['token_passes'].sum() / 1e9:,.0f} billion", "its budgets"),
        "token passes per exact token, paper's": (f"{passes['paper']:,.0f}", f"measured here, n = {n}"),
        "token passes per exact token, ours": (f"{passes['horizon']:,.0f}", f"measured here, n = {n}"),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "is"]).rename_axis("what goes in")
    caption = (
        f"**Every hour below rests on an assumed share of the peak, {page.reached}, every dollar on an assumed price "
        "too.** Peak rates: bfloat16, dense, as NVIDIA publishes them. *Our recipe* divides hours by "
        f"{page.ratio:.1f}, the ratio of the last two rows; {n} passages are too few for an interval."
    )
    return Exhibit(caption, table, Fold("Devices: assumed prices, published rates", devices_table(page.devices)))


def machines_table(frame: pd.DataFrame, utilisation: tuple[float, float]) -> pd.DataFrame:
    """`machines` as a page shows them, one column a device and format; what was not measured says so."""
    columns = {}
    for row in frame.itertuples():
        known = {
            "exact runs that stay exact": f"{row.still:.0f} of {row.certified:.0f}",
            "their margins move by, logits (median, most)": f"{row.moved:.2g}, {row.moved_most:.2g}",
            "token passes a second, fastest step": f"{row.rate:,.0f}",
            "its passages by tokens": f"{row.passages:.0f} by {row.tokens:.0f}",
            "its share of a matrix product's rate": f"{row.share:.0%}",
            "one run three times, bit for bit": {True: "alike", False: "not alike"}.get(row.alike, "nan"),
            "peak memory over the formula": f"{row.over:.2f}",
            "exact tokens, and the store's by its trace, up to a block too few": (
                f"{row.horizon:.1f}, {row.stored:.1f} (n = {row.pairs:.0f})"
            ),
        }
        said = {name: "not measured" if "nan" in text else text for name, text in known.items()}
        columns[f"{row.device}, {row.dtype}"] = said
    assumed = {"its share of a matrix product's rate": " to ".join(f"{share:.0%}" for share in utilisation)}
    columns["GPU, assumed above"] = dict.fromkeys(next(iter(columns.values()), assumed), "not measured") | assumed
    return pd.DataFrame(columns).rename_axis("measured")


def show_machines(page: Page) -> Exhibit:
    """What the benchmark of devices found, and what of it is only assumed of a GPU."""
    frame = machines()
    told = [
        f"{row.still:.0f} of {row.certified:.0f} exact runs stay exact in {row.dtype}"
        for row in frame.dropna(subset="still").itertuples()
    ]
    devices, budget = list(dict.fromkeys(frame["device"])), frame["budget"].max()
    reached = [f"{row.share:.0%} in {row.dtype}" for row in frame.dropna(subset="share").itertuples()]
    caption = (
        f"**On {words.listed(devices) or 'no device yet'} {words.listed(told) or 'nothing was decoded again'}, and "
        f"the fastest step reaches {words.listed(reached) or 'an unknown share'} of a matrix product.** "
        f"Tokens: horizons at {budget:,.0f} token passes. Of a GPU only the share was assumed, {page.reached} of the "
        "peak; no GPU was at hand."
    )
    return Exhibit(caption, machines_table(frame, page.utilisation))


def show_grid(page: Page) -> Exhibit:
    """The grid model by model, on one device."""
    bills = grid_bills(page.work, page.devices.loc[[page.device]], page.utilisation, page.ratio)
    ends, largest = page.bills.loc[page.device], bills.loc[bills["operations"].idxmax()]
    caption = (
        f"**{largest['operations'] / bills['operations'].sum():.0%} of the "
        f"{spend(ends['hours_low'], ends['hours_high'])} hours are {largest['model']}.** Arithmetic: bars end at the "
        f"assumed {page.reached} of the peak, as if no run were solved before its {recipe('paper').max_steps:,} "
        f"steps; lower bars: over {page.ratio:.1f}. Memory in the table: a step of {page.passages} passages of the "
        "longest length, one mem vector, nothing checkpointed; of Mamba not known."
    )
    folded = Fold(f"Model by model, on one {page.device}", grid_table(bills))
    return Exhibit(caption, grid_figure(bills), folded)


def show_bills(page: Page) -> Exhibit:
    """The whole grid on each device."""
    needed, small = page.work["memory_gb"].dropna(), page.devices["memory_gb"].idxmin()
    too_much = needed > USABLE * page.devices.loc[small, "memory_gb"]
    dollars = spend(page.bills["dollars_low"].min(), page.bills["dollars_high"].max())
    caption = (
        f"**On any of these devices the grid costs {dollars} dollars at assumed prices.** Their order is that of the "
        f"assumptions. {too_much.sum()} of {len(needed)} models do not fit on {small} at {page.passages} passages and "
        "the longest length: fewer at once, or checkpoints. "
        f"Attention proper is left out: {attention_share(page.shapes[MIDDLE], 2560):.0%} more for {MIDDLE} at 2,560 "
        "tokens."
    )
    return Exhibit(caption, bill_table(page.bills.reset_index()))


def show_memory_check(page: Page) -> Exhibit:
    """The formula of memory against what autograd keeps of the model at hand."""
    lm, passages, length = page.lm, 16, 64
    parts = memory(shape_of(lm), passages=passages, length=length, dtype=page.plan.dtype)
    found, whole = measured_kept(lm, passages, length), at_once(parts)
    measured = page.benchmark[(page.benchmark["what"] == "memory") & (page.benchmark["model"] == lm.name)]
    peak = measured["peak_bytes"].max()
    shown = {
        "kept for the backward pass": (parts["activations"], "formula"),
        "kept for the backward pass, by autograd": (found, "measured"),
        "weights": (parts["weights"], "formula"),
        "logits in parts": (parts["logits"], "formula"),
        "all of a step": (whole, "formula"),
        "peak of the process": (peak, "measured"),
    }
    table = pd.DataFrame.from_dict(shown, orient="index", columns=["GB", "is"]).rename_axis("memory")
    caption = (
        f"**The formula is {abs(parts['activations'] / found - 1):.1%} off what autograd keeps.** {passages} passages "
        f"of {length} tokens, {page.plan.dtype}, one small model on a CPU. The process as a whole took "
        f"{peak / whole:.1f} times as much as a step: Python and its libraries, loading, and what the allocator does "
        "not give back are in its peak."
    )
    return Exhibit(caption, table.assign(GB=(table["GB"] / GB).map("{:.3f}".format)))


def show_memory_steps(page: Page) -> Exhibit:
    """Memory of a step, and what is done about it."""
    gb, steps = page.one["memory_gb"], page.memory[MIDDLE].set_index("what")
    first = steps.loc["all logits at once"]
    caption = (
        f"**{MIDDLE} needs {first['total']:.0f} GB a step as it comes, {first['activations'] / first['total']:.0%} of "
        f"it activations; with checkpoints {steps.loc['and checkpointed', 'total']:.0f} GB.** Arithmetic, not "
        f"measured: {page.passages} passages of {page.length:,} tokens in bfloat16, one mem vector; bar by bar one "
        "thing more is done. Dashed: what devices hold."
    )
    return Exhibit(caption, memory_steps_figure(page.memory, {page.device: gb, f"8 × {page.device}": 8 * gb}))


def show_passages(page: Page) -> Exhibit:
    """What ten, a thousand, a hundred thousand passages take."""
    steps, slow = recipe("paper").max_steps or 0, page.utilisation[0]
    budget = max(e.resolved().max_token_passes or 0 for e in page.grid.on(MIDDLE) if e.kind == "horizon")
    jobs = {"paper's recipe": steps * page.length, "our horizon": budget}
    many = passages_bill((10, 1_000, 100_000), jobs, page.shapes[MIDDLE], page.one, page.utilisation)
    most = many[many["passages"] == 100_000]
    caption = (
        f"**A hundred thousand passages take {spend(most['hours_low'].min(), most['hours_high'].max())} hours of one "
        f"{page.device}, by recipe and assumed rate.** Arithmetic: {MIDDLE}, {steps:,} steps of {page.length:,} "
        f"tokens or {budget:,} token passes, all spent. Days at {slow:.0%} of the peak; a run does not divide. Too "
        "much: over a week, over 10,000 files in a folder."
    )
    return Exhibit(caption, passages_table(many))


def show_store_speed(page: Page) -> Exhibit:
    """What reading and merging a store of many runs takes on this machine."""
    speeds = pd.DataFrame([store_speed(runs, page.length, 4096) for runs in (20, 80)]).set_index("runs")
    most = speeds.iloc[-1] * 100  # per 1,000 runs, for 100,000
    caption = (
        f"**Reading 100,000 unmerged runs would take {most['read']:,.0f} s here, merging them "
        f"{most['merge_gb']:,.0f} GB of Python objects.** Extrapolated; measured are the rows, per 1,000 runs: the "
        f"shortest of three on a shared machine, without an interval, made-up runs of {page.length:,} tokens. Once "
        f"merged, reading takes {most['read_merged']:,.0f} s; the files are {most['gb']:,.1f} GB."
    )
    shown = {"read": "read, s", "merge_gb": "merge, GB", "read_merged": "read merged, s", "gb": "files, GB"}
    return Exhibit(caption, speeds.rename(columns=shown).map("{:.2g}".format))


def show_executors(page: Page) -> Exhibit:
    """What workers gain on two cores."""
    workers = pd.read_parquet(BENCHMARKS / "executors.parquet")
    rates, first = executors(workers), workers.iloc[0]
    table = executors_table(rates)
    said = words.listed([f"{name} {share}" for name, share in table["of serial"].drop("serial").items()])
    caption = (
        f"**On two cores, times as fast as one process: {said}.** Measured: {first['workers']} workers of "
        f"{first['threads']} thread against {first['workers'] * first['threads']} threads, start and loading "
        f"included; {first['runs']} passages of {first['tokens']} tokens in batches of {first['batch']}, "
        f"{first['steps']} steps. Medians of {rates['rounds'].max()} rounds, least to greatest. Both cores work "
        "either way; workers are for several devices."
    )
    return Exhibit(caption, table)


def show_seventy_billion(page: Page) -> Exhibit:
    """On how many devices a step of 70 billion parameters fits."""
    shape, steps = page.shapes[BIG], page.memory[BIG]
    tried = steps[["passages", "head_rows", "checkpoint"]].astype(object).where(steps.notna(), None).to_dict("records")
    needed = {
        name: [ways_needed(gb, shape, length=page.length, **how) for how in tried]
        for name, gb in page.devices["memory_gb"].items()
    }
    without, checkpointed = (n or "more than 8" for n in needed[page.device][1:3])
    caption = (
        f"**The weights alone are {steps['weights'].iloc[0]:.0f} GB; with checkpoints {checkpointed} {page.device} "
        f"hold a step of {page.passages} passages, without them {without}.** Arithmetic, in bfloat16, {page.length:,} "
        f"tokens. By device: how many hold the step, a power of two up to the {shape.kv_heads} heads of keys and "
        f"values, {USABLE:.0%} of their memory. Checkpointed layer inputs lie on every device."
    )
    return Exhibit(caption, memory_table(steps, needed))


def show_ways_out(page: Page) -> Exhibit:
    """What to do about 70 billion parameters, and what it costs."""
    shape, fast, slowest = page.shapes[BIG], page.utilisation[1], page.devices["link_gbs"].idxmin()
    talk, slow_talk = (talk_share(shape, page.devices.loc[name], 8, fast) for name in (page.device, slowest))
    dense, thin = (kept(shape, checkpoint=checkpoint) / 1e6 for checkpoint in (False, True))
    apart = padding(page.ours["length"].tolist(), page.passages)
    rows = {
        "eight devices share each layer": (
            f"{2 * shape.weights / 8 / 1e9:.1f} GB of weights on each",
            f"{talk:.0%} more time; on {slowest} {slow_talk:.0%}",
        ),
        "checkpoints": (f"{dense:.1f} MB a position become {thin:.2f}", f"{6 / 4 - 1:.0%} more time"),
        "packing": (f"{apart:.0%} of positions, our lengths", "nothing"),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["what it saves", "what it costs"])
    caption = (
        f"**Sharing each layer over eight {page.device} costs {talk:.0%} of the computing in exchange, checkpoints "
        f"one more forward pass.** Arithmetic at the assumed {fast:.0%} of the peak, exchange and computing not "
        f"overlapping. Packing: padding of our {len(page.ours)} measured horizons in batches of {page.passages}. "
        f"Decoding {page.passages} at once holds {page.memory[BIG]['keys_values'].iloc[0]:.1f} GB of keys and values."
    )
    return Exhibit(caption, table.rename_axis("what is done"))
