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

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cramming.engine import HEAD_ROWS, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.paths import PAPER
from cramming.results import estimate
from cramming.results.plans import Plan
from cramming.results.store import SCHEMA, Store, run_key
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled

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
    frame = pd.read_csv(PAPER / "devices.csv", dtype={"dollars_per_hour": float}).set_index("device")
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
        estimate: `cramming.results.estimate.estimate` of it.
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


def executors_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`executors` for the page."""
    return pd.DataFrame(
        {
            "token passes a second": summary["rate"].map("{:.0f}".format),
            "of serial": [words.within(row.ratio, row.low, row.high, 2) for row in summary.itertuples()],
        }
    ).rename_axis("executor")


def devices_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.studies.scale.devices` as a page shows them."""
    return pd.DataFrame(
        {
            "memory, GB": frame["memory_gb"],
            "peak, 10¹² operations/s, bfloat16": (frame["bfloat16_ops"] / 1e12).map("{:,.0f}".format),
            "float32": (frame["float32_ops"] / 1e12).map("{:,.0f}".format),
            "memory, GB/s": frame["bandwidth_gbs"].map("{:,.0f}".format),
            "link, GB/s": frame["link_gbs"].map("{:,.0f}".format),
            "$ an hour, assumed": frame["dollars_per_hour"].map("{:.2f}".format),
        }
    )


def devices_sources(frame: pd.DataFrame) -> str:
    """Where the numbers of `cramming.studies.scale.devices` come from, for captions."""
    return "; ".join(f"{name}: {source}" for name, source in frame["source"].items())


def grid_table(grid: pd.DataFrame, some: pd.DataFrame, utilisation: tuple[float, float], ratio: float) -> pd.DataFrame:
    """The paper's grid model by model, with hours of one device and dollars.

    Args:
        grid: From `cramming.studies.scale.by_model`.
        some: From `cramming.studies.scale.devices`, one row.
        utilisation: Least and greatest share of the peak.
        ratio: As in `cramming.studies.scale.bill`.
    """
    total = grid[["runs", "token_passes", "operations"]].sum()
    rows = [*grid.to_dict("records"), {"model": "all", **total}]
    bills = [bill(row["operations"], some, utilisation, ratio).iloc[0] for row in rows]
    shown = pd.DataFrame(
        {
            "runs": [f"{row['runs']:,.0f}" for row in rows],
            "token passes, at most": [f"{row['token_passes']:.2g}" for row in rows],
            "operations, at most": [f"{row['operations']:.2g}" for row in rows],
            "longest, tokens": [f"{row['longest']:,}" if "longest" in row else "" for row in rows],
            "memory, GB": [estimate.large(row.get("memory_gb", np.nan)) for row in rows],
            "hours": [estimate.spend(bill["hours_low"], bill["hours_high"]) for bill in bills],
            "dollars": [estimate.spend(bill["dollars_low"], bill["dollars_high"]) for bill in bills],
            "hours, our recipe": [estimate.spend(bill["ours_hours_low"], bill["ours_hours_high"]) for bill in bills],
        }
    )
    return shown.set_index(pd.Index([row["model"] for row in rows], name="model"))


def bill_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.studies.scale.bill` as a page shows it."""
    shown = {}
    for who, said in (("", "paper's recipe"), ("ours_", "ours")):
        for unit in ("hours", "dollars"):
            low, high = frame[f"{who}{unit}_low"], frame[f"{who}{unit}_high"]
            shown[f"{unit}, {said}"] = [estimate.spend(*ends) for ends in zip(low, high, strict=True)]
    return pd.DataFrame(shown, index=pd.Index(frame["device"]))


def passages_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.studies.scale.passages_bill` as a page shows it, with what gives way first and what to do."""
    shown = pd.DataFrame(
        {
            "run": frame["what"],
            "device hours": [estimate.spend(r.hours_low, r.hours_high) for r in frame.itertuples()],
            "dollars": [estimate.spend(r.dollars_low, r.dollars_high) for r in frame.itertuples()],
            **{f"days on {d}": frame[f"days_{d}"].map(estimate.large) for d in (1, 8, 64)},
            "files": frame["files"].map("{:,}".format),
            "vectors, GB": frame["vectors_gb"].map(estimate.large),
            "what gives way": [_gives_way(r) for _, r in frame.iterrows()],
        }
    )
    return shown.set_index(pd.Index(frame["passages"].map("{:,}".format), name="passages"))


def _gives_way(row: pd.Series, days: float = 7, files: int = 10_000) -> str:
    """What of a bill is too much for a week on so many devices, or for one folder."""
    fits = [d for d in (1, 8, 64) if row[f"days_{d}"] <= days]
    said = []
    if not fits:
        said.append("64 devices are not enough for a week: fewer passages, or a smaller budget")
    elif fits[0] > 1:
        said.append(f"one device: --part i/{fits[0]} on {fits[0]}")
    if row["files"] > files:
        said.append("files in one folder: one store a part, --compact after each")
    return "; ".join(said) or "nothing"


def memory_table(frame: pd.DataFrame, needed: Mapping[str, list[int | None]]) -> pd.DataFrame:
    """`cramming.studies.scale.memory_steps` as a page shows it.

    Args:
        frame: From there.
        needed: Of each device, how many hold the step, row by row.
    """
    parts = ["weights", "activations", "logits", "total"]
    shown = {f"{part}, GB": frame[part].map(estimate.large).to_list() for part in parts}
    shown |= {"mem and optimiser, MB": (frame["optimiser"] * 1000).map(estimate.large).to_list()}
    shown |= {"operations": [f"{n} a parameter" for n in frame["operations"]]}
    shown |= {f"{name}, number": [n or "more than 8" for n in numbers] for name, numbers in needed.items()}
    return pd.DataFrame(shown, index=pd.Index(frame["what"], name="a step"))


@styled
def memory_steps_figure(frames: Mapping[str, pd.DataFrame], limits: Mapping[str, float]) -> Figure:
    """Memory of a step by part, as one thing after the other is done about it: one panel a model.

    Args:
        frames: `cramming.studies.scale.memory_steps` by model.
        limits: Memory of what a step may run on, in GB, by name.
    """
    figure, axes = plt.subplots(1, len(frames), figsize=(3.4 * len(frames), 4.2), squeeze=False)
    for axis, (name, frame) in zip(axes[0], frames.items(), strict=True):
        places, below = np.arange(len(frame)), np.zeros(len(frame))
        for part, colour, hatch in zip(("weights", "activations", "logits"), COLOURS, ("", "//", ".."), strict=False):
            axis.bar(places, frame[part], bottom=below, color=colour, hatch=hatch, width=0.7, edgecolor="white",
                     linewidth=0.5, label=part)  # fmt: skip
            below += frame[part].to_numpy()
        top = below.max() * 1.15
        for label, limit in limits.items():
            if limit < top:
                axis.axhline(limit, color="black", linestyle="--", linewidth=1.2)
                axis.annotate(label, (len(frame) - 0.5, limit), (0, 4), textcoords="offset points", fontsize="x-small",
                              ha="right", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        for place, total in zip(places, frame["total"], strict=True):
            axis.annotate(f"{total:,.0f}", (place, total), (0, 3), textcoords="offset points", fontsize="x-small",
                          ha="center")  # fmt: skip
        axis.set_xticks(places, frame["what"], rotation=35, ha="right", fontsize="x-small")
        axis.set(title=name, ylim=(0, top))
        axis.grid(visible=False, axis="x")
    axes[0][0].set(ylabel="memory of a step, GB")
    axes[0][0].legend(fontsize="x-small", loc="upper right")
    return figure
