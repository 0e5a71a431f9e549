"""How few bits a number a mem vector needs: what is exact after rounding, noise and thinning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.decode import exact_prefix
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.rows import crammed
from cramming.rounding import quantise, stored_bits
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage

# What was done to mem vectors, how much of it (bits a number, degrees or a share), the bits they take, and the result.
Change = tuple[str, float, float, torch.Tensor]
# When vectors were rounded.
IN_THE_LOOP = "rounded while crammed"
AFTER = "rounded afterwards"
SPARE = "found with margin, rounded afterwards"
# How ways of changing or rounding vectors look, in the order they come.
_LINES = ((COLOURS[0], "o", "-"), (COLOURS[1], "s", "--"), (COLOURS[3], "^", ":"), (COLOURS[2], "D", "-."))


class Page(AnyPage):
    """Vectors rounded after they were found, and vectors found while rounding.

    Attributes:
        bits: Numbers of bits a number that are tried.
        block: Numbers that share a scale.
        degrees: Angles of noise.
        draws: Of noise, for each angle.
        shares: Shares of the numbers set to 0.
        crams: Crams of a fixed length, from `by_rounding`.
        plain: Those that were not rounded, with the recipe's margin.
        spare: The same with a larger one.
        found: Those of them that reached it.
        horizons: Horizons of a token or more, so many of each source.
        n: Passages of plain.
        size: Their tokens.
    """

    def __init__(
        self, scale: str, n_horizons: int, bits: list[int], block: int, degrees: list[float], draws: int,
        shares: list[float],
    ) -> None:  # fmt: skip
        super().__init__("bits", scale)
        self.bits, self.block, self.degrees, self.draws, self.shares = bits, block, degrees, draws, shares
        rows = by_rounding(self.results).sort_values(["source", "passage"])
        self.crams = rows[rows["kind"] == "cram"]
        whole = self.crams[self.crams["bits"].isna()]
        self.plain, self.spare = (some for _, some in whole.groupby("stop_margin"))
        self.found = self.spare[self.spare["exact"] & (self.spare["ended"] == "solved")]
        horizons = rows[(rows["kind"] == "horizon") & (rows["length"] > 0)]
        self.horizons = horizons.groupby("source").head(n_horizons)
        self.n, self.size = self.plain["passage"].nunique(), int(self.plain["length"].iloc[0])

    def survival(self, runs: pd.DataFrame, change: Callable[[torch.Tensor], list[Change]]) -> pd.DataFrame:
        """From `survival`, of what the vectors of some runs hold."""
        return survival(self.lm, [self.vectors[key] for key in runs["key"]], crammed(runs, self.lm), change)

    @cached_property
    def changed(self) -> pd.DataFrame:
        """From `survival`, of horizons after rounding, noise and zeroing."""
        noise = torch.Generator().manual_seed(0)

        def change(mem: torch.Tensor) -> list[Change]:
            disturbed = turned(mem, self.degrees, noise, self.draws) + thinned(mem, self.shares)
            return rounded(mem, self.bits, self.block) + disturbed

        return self.survival(self.horizons, change)

    @cached_property
    def survived(self) -> pd.DataFrame:
        """From `survival_summary`, of horizons."""
        return survival_summary(self.changed)

    @cached_property
    def few(self) -> pd.DataFrame:
        """From `few_bits`, of crams."""
        afterwards = {AFTER: self.plain} | ({SPARE: self.found} if len(self.found) else {})
        left = {name: self.survival(runs, lambda mem: rounded(mem, self.bits)) for name, runs in afterwards.items()}
        return few_bits(self.crams, left)

    @cached_property
    def few_survived(self) -> pd.DataFrame:
        """From `survival_summary`, of crams."""
        return survival_summary(self.few)

    @cached_property
    def fewest(self) -> pd.Series:
        """From `fewest_for_all`, of crams."""
        return fewest_for_all(self.few)

    @cached_property
    def least_bits(self) -> float:
        """Bits of the vectors of a passage at the fewest bits a number at which all crams stay exact."""
        tried = self.few_survived.reset_index()
        all_whole = (tried["whole"] == self.n) & (tried["amount"] == self.fewest.min())
        return float(tried.loc[all_whole, "stored_bits"].min())

    def over_the_loop(self, what: str) -> tuple[float, float, float]:
        """Fewest bits a number beyond those in the loop, passage by passage: mean with its 95 % bootstrap interval."""
        fewest = {way: some.set_index("passage")["fewest"] for way, some in fewest_bits(self.few).groupby("what")}
        more = (fewest.get(what, np.nan) - fewest[IN_THE_LOOP]).dropna()
        return (more.mean(), *metrics.bootstrap_ci(more)) if len(more) else (np.nan,) * 3


def rounded(mem: torch.Tensor, bits: Iterable[int], block: int | None = None) -> list[Change]:
    """Mem vectors (k, d) as they are, in two half-precision formats, and by `quantise`, with a scale a vector and,
    if `block` is given, a scale a block as well."""
    k, d = mem.shape
    changes: list[Change] = [("float32", 32, 32 * k * d, mem)]
    for dtype in (torch.bfloat16, torch.float16):
        changes.append((str(dtype).removeprefix("torch."), 16, 16 * k * d, mem.to(dtype).float()))
    for b in bits:
        changes += [
            ("scale a block" if size else "scale a vector", b, stored_bits(d, b, size, k), quantise(mem, b, size))
            for size in dict.fromkeys((None, block))
        ]
    return changes


def turned(mem: torch.Tensor, degrees: Iterable[float], generator: torch.Generator, draws: int = 1) -> list[Change]:
    """Mem vectors (k, d), each turned by so many degrees towards random noise, `draws` times anew; norms stay."""
    normalise = torch.nn.functional.normalize
    norm, unit, changes = mem.norm(dim=1, keepdim=True), normalise(mem), list[Change]()
    for _ in range(draws):
        noise = torch.randn(mem.shape, generator=generator).to(mem.device)
        across = normalise(noise - (noise * unit).sum(1, keepdim=True) * unit)
        for angle in degrees:
            turn = math.radians(angle)
            changes.append(("noise", angle, math.nan, norm * (math.cos(turn) * unit + math.sin(turn) * across)))
    return changes


def thinned(mem: torch.Tensor, shares: Iterable[float]) -> list[Change]:
    """Mem vectors (k, d) with that share of the numbers of each set to 0, the smallest ones."""
    order = mem.abs().argsort(dim=1).argsort(dim=1)  # the rank of each number
    return [("zeroed", share, math.nan, mem * (order >= round(share * mem.shape[1]))) for share in shares]


def survival(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    passages: Sequence[Passage],
    change: Callable[[torch.Tensor], list[Change]],
) -> pd.DataFrame:
    """How many tokens of each passage are exact after its mem vectors were changed, in several ways.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold.
        change: Gives the changed vectors, such as `rounded`.

    Returns:
        One row a passage and changed vectors: source, passage, length (tokens), what and amount (see `Change`),
        stored_bits, degrees (angle to the vectors before), exact (tokens of the longest prefix of which each token is
        the argmax given the true ones before it; free decoding in the same computation gives the same).

    Raises:
        CrammingError: If there is no passage, or not as many vectors.
    """
    if not len(vectors) == len(passages) > 0:
        raise CrammingError(f"{len(vectors)} vectors and {len(passages)} passages: give as many of each, at least one")
    rows = []
    for mem, passage in zip(vectors, passages, strict=True):
        changes = change(mem)
        exact = exact_prefix(lm, torch.stack([changed for *_, changed in changes]), passage.token_ids)
        for (what, amount, bits, changed), tokens in zip(changes, exact, strict=True):
            cosine = torch.nn.functional.cosine_similarity(mem.flatten().double(), changed.flatten().double(), dim=0)
            degrees = math.degrees(math.acos(min(1.0, float(cosine))))
            rows.append((passage.source, passage.id, len(passage), what, amount, bits, degrees, tokens))
    columns = ["source", "passage", "length", "what", "amount", "stored_bits", "degrees", "exact"]
    return pd.DataFrame(rows, columns=columns)


def survival_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What is left of passages after their vectors were changed, one row a way and amount of change.

    Args:
        frame: From `survival` or `few_bits`.

    Returns:
        Indexed by what and amount: n (passages), stored_bits (of the vectors of a passage), degrees (mean angle to
        the vectors before), exact_mean, exact_sd (tokens), share_mean (of the tokens of a passage), share_low,
        share_high (its 95 % bootstrap interval over passages), whole (vectors that keep every token), bits_per_token
        (bits stored over tokens left, sums over passages; infinite if none is left).
    """
    rows = {}
    share = frame["exact"] / frame["length"]
    for key, some in frame.assign(share=share).groupby(["what", "amount"], sort=False):
        shares = some.groupby("passage")["share"].mean()
        low, high = metrics.bootstrap_ci(shares)
        rows[key] = {
            "n": len(shares),
            "stored_bits": some["stored_bits"].mean(),
            "degrees": some["degrees"].mean(),
            "exact_mean": some["exact"].mean(),
            "exact_sd": some["exact"].std(),
            "share_mean": shares.mean(),
            "share_low": low,
            "share_high": high,
            "whole": int((some["exact"] == some["length"]).sum()),
            "bits_per_token": words.ratio(some["stored_bits"].sum(), some["exact"].sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "amount"])


def fewest_bits(frame: pd.DataFrame) -> pd.DataFrame:
    """The fewest bits a number at which passages stay exact over their whole length, and at all more that were tried.

    Args:
        frame: From `survival` or `few_bits`.

    Returns:
        One row a way of rounding and passage: what, passage, fewest (bits a number; nan if some token is lost even at
        the most), stored_bits (of the vectors of that passage, then).
    """
    rows = []
    some = frame[frame["stored_bits"].notna()].sort_values("amount", ascending=False)
    for key, each in some.groupby(["what", "passage"], sort=False):
        kept = each[(each["exact"] == each["length"]).cummin()]
        fewest, bits = (kept["amount"].iloc[-1], kept["stored_bits"].iloc[-1]) if len(kept) else (np.nan, np.nan)
        rows.append((*key, fewest, bits))
    return pd.DataFrame(rows, columns=["what", "passage", "fewest", "stored_bits"])


def fewest_for_all(frame: pd.DataFrame) -> pd.Series:
    """By way of rounding the fewest bits a number at which all passages stay exact; nan if they do at none tried."""
    return fewest_bits(frame).groupby("what", sort=False)["fewest"].agg(lambda bits: bits.max(skipna=False))


def by_rounding(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of the store with the columns bits (mem was rounded to; nan if it was not) and stop_margin (logits)."""
    hows = [Recipe.model_validate_json(text) for text in results["recipe_json"]]
    bits = np.array([how.bits or np.nan for how in hows])
    return results.assign(bits=bits, stop_margin=[how.stop_margin for how in hows])


def few_bits(runs: pd.DataFrame, afterwards: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rounding in the loop and rounding afterwards side by side.

    Args:
        runs: Rows from `by_rounding`; those rounded with one scale a vector count. Their tokens left are those that
            free decoding gives.
        afterwards: From `survival` with `rounded`, by what to call the vectors that were rounded.

    Returns:
        The columns of `survival`, what being the way of rounding and amount the bits a number;
        degrees is nan in the loop, where there is no vector before.
    """
    kept = ["float32", "scale a vector"]
    parts = [frame[frame["what"].isin(kept)].assign(what=name) for name, frame in afterwards.items()]
    loop = runs[runs["bits"].notna()].sort_values("bits", ascending=False)
    bits = [stored_bits(row.width, int(row.bits), k=row.n_vectors) for row in loop.itertuples()]
    columns = {"what": IN_THE_LOOP, "amount": loop["bits"], "stored_bits": bits, "degrees": np.nan}
    parts.append(loop[["source", "passage", "length"]].assign(**columns, exact=loop["correct_greedy"]))
    return pd.concat(parts, ignore_index=True)


def information_per_token(runs: pd.DataFrame) -> float:
    """Bits that a token of the passages of runs carries without mem, mean over tokens 1 on of all passages."""
    nats = [np.asarray(row.token_nats_without)[1 : row.length] for row in runs.itertuples()]
    return float(metrics.nats_to_bits(np.concatenate(nats).mean()))


def survival_table(summary: pd.DataFrame, first: str = "written as") -> pd.DataFrame:
    """`survival_summary` of what takes a number of bits, as a page shows it; `first` heads the first column."""
    some = summary[summary["stored_bits"].notna()].reset_index()
    rows = {
        (row.what, f"{row.amount:g}"): {
            "passages whole": f"{row.whole} of {row.n}",
            "exact tokens left": words.spread(row.exact_mean, row.exact_sd),
            "bits of vector a token left": f"{row.bits_per_token:,.0f}" if np.isfinite(row.bits_per_token) else "",
            "bits a vector": f"{row.stored_bits:,.0f}",
            "angle, degrees": f"{row.degrees:.1f}" if row.degrees == row.degrees else "",
        }
        for row in some.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis([first, "bits a number"])


@styled
def survival_figure(summary: pd.DataFrame) -> Figure:
    """Share of a passage that is left after rounding, against bits a number, and after any change, against its angle.

    Args:
        summary: From `survival_summary`, of rounding, noise and zeroing.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7), sharey=True)
    frame = summary.reset_index()
    names = [what for what in dict.fromkeys(frame["what"]) if "float" not in what]
    for what, (colour, marker, style) in zip(names, _LINES, strict=False):
        some = frame[frame["what"] == what]
        panels = [(axes[1], some["degrees"])]
        if some["stored_bits"].notna().any():
            panels.append((axes[0], some["amount"]))
        for axis, along in panels:
            axis.plot(along, some["share_mean"] * 100, style, color=colour, marker=marker, markersize=5, linewidth=2,
                      label=what)  # fmt: skip
            axis.fill_between(along, some["share_low"] * 100, some["share_high"] * 100, color=colour, alpha=0.15,
                              linewidth=0)  # fmt: skip
    bits = sorted(frame.loc[frame["what"].isin(names) & frame["stored_bits"].notna(), "amount"].unique())
    axes[0].set(xlabel="bits a number", ylim=(-3, 103), xticks=bits)
    axes[1].set(xlabel="angle to the vector found, degrees (log scale)", xscale="log", xticks=(0.3, 1, 3, 10, 30))
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in axes:
        axis.set_ylabel("exact tokens left, %")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def few_bits_figure(frame: pd.DataFrame) -> Figure:
    """Passages that stay whole, and exact tokens, against bits a number, by when mem was rounded.

    Args:
        frame: From `few_bits`.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7.4), sharex=True)
    amounts = sorted(frame["amount"].unique())
    place = {amount: at for at, amount in enumerate(amounts)}  # evenly spaced, or 32 would push the few together
    for i, (what, (colour, marker, style)) in enumerate(zip(frame["what"].unique(), _LINES, strict=False)):
        some = frame[frame["what"] == what]
        beside = some["amount"].map(place) + (i - 1) * 0.15  # side by side: many keep equally many
        whole = some["exact"] == some["length"]
        for axis, values in zip(axes, (whole, some["exact"]), strict=True):
            line = values.groupby(beside).mean()
            axis.plot(line.index, line, style, color=colour, marker=marker, linewidth=2,
                      label=f"{what} (n = {some['passage'].nunique()})")  # fmt: skip
        axes[1].plot(beside, some["exact"], marker, color=colour, markersize=3.5, alpha=0.45)
    axes[0].set(ylabel="share of passages whole", ylim=(-0.04, 1.04))
    most = frame["length"].max()
    axes[1].set(xlabel="bits a number (32: not rounded)", ylabel="exact tokens left", ylim=(-0.04 * most, 1.04 * most))
    axes[1].set_xticks(range(len(amounts)), [f"{amount:g}" for amount in amounts])
    for axis in axes:
        axis.grid(visible=False, axis="x")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left")
    return figure


def _bits_a_number(bits: float) -> str:
    """A number of bits, for captions."""
    return f"{bits:.0f} bit{'s' if bits != 1 else ''} a number" if bits == bits else "no number of bits tried"


def _more(page: Page, what: str) -> str:
    """What rounding in another way takes more than in the loop, for captions."""
    return words.interval(*page.over_the_loop(what)) or "an unknown number of"


def show_answer(page: Page) -> Answer:
    """The fewest bits at which all stay exact, in the loop and afterwards, and what a token then takes."""
    low = page.over_the_loop(AFTER)[1]
    return Answer(
        page.setting,
        "How few bits a number does a vector need?",
        f"All {page.n} passages of {page.size} tokens stay exact at **{_bits_a_number(page.fewest[IN_THE_LOOP])}** in "
        f"vectors rounded while they are searched for, and at {_bits_a_number(page.fewest[AFTER])} in vectors rounded "
        f"afterwards, passage by passage {_more(page, AFTER)} bits more; at best that is "
        f"{words.number(page.least_bits / page.size)} bits of vector a token, which carries "
        f"{information_per_token(page.plain):.1f} bits.",
        rests=f"{words.counted(page.plain)} passages, 95 % interval of the mean difference; at most "
        f"{words.budgets(page.spare)} in the loop, {words.budgets(page.plain)} outside. None of {page.n} lost leaves "
        f"room for {1 - 0.05 ** (1 / page.n):.0%} of such passages (95 %)",
        sure="holds here only" if low > 0 else "open",
        why="one small model, far fewer tokens than a vector holds, and the plainest way to round",
    )


def show_survival(page: Page) -> Exhibit:
    """What rounding, noise and zeroing leave of horizons."""
    rounding, noise = page.survived.loc["scale a vector"], page.survived.loc["noise"]
    most, least = rounding.loc[max(page.bits)], noise.iloc[0]
    none = rounding.index[rounding["whole"] == 0]
    lost = f", to {none.max():g} none" if len(none) else ""
    kept = words.percent(*least[["share_mean", "share_low", "share_high"]])
    caption = (
        f"**Rounded to {max(page.bits)} bits a number {most['whole']:.0f} of {most['n']:.0f} horizons stay "
        f"exact{lost}; turned by {least.name:g}° at random a vector keeps {kept} of its tokens.** Mean shares with "
        f"95 % intervals, {words.counted(page.horizons)}; noise drawn {page.draws} times. Above: rounding. Below: "
        "rounding, noise and smallest numbers set to zero, by angle."
    )
    return Exhibit(caption, survival_figure(page.survived))


def show_stored(page: Page) -> Exhibit:
    """The fewest bits that a token left of a horizon takes, and what rounding leaves in numbers."""
    stored = page.survived[page.survived["stored_bits"].notna()]
    way, amount = stored["bits_per_token"].idxmin()
    best = page.changed.query("what == @way and amount == @amount")
    bits, left = best["stored_bits"].to_numpy(), best["exact"].to_numpy()
    fewest = words.within(words.ratio(bits.sum(), left.sum()), *words.ratio_interval(bits, left), 0)
    caption = (
        f"**Of {len(stored)} ways the best takes {fewest} bits of vector a token left; a token of these horizons "
        f"carries {information_per_token(page.horizons):.1f}.** It is {way}, {amount:g} bits a number: bits over "
        f"tokens, sums of {len(best)} horizons of {words.range(page.horizons['length'])} tokens, 95 % interval. A "
        f"block is {page.block} numbers. Table: mean ± standard deviation."
    )
    return Exhibit(caption, Fold("What rounding leaves of horizons, in numbers", survival_table(page.survived)))


def show_few_bits(page: Page) -> Exhibit:
    """Rounding in the loop and afterwards."""
    margin = f"{page.spare['stop_margin'].iloc[0]:g} logits"
    found = f", those found with {margin} to spare {_more(page, SPARE)}" if len(page.found) else ""
    caption = (
        f"**To stay exact, passages rounded afterwards take {_more(page, AFTER)} bits a number more than in the "
        f"loop{found}.** Mean differences passage by passage, 95 % intervals. Above: share of passages of {page.size} "
        "tokens that stay exact. Below: exact tokens left, means as lines, passages as small marks."
    )
    table = survival_table(page.few_survived, "rounded when")
    return Exhibit(caption, few_bits_figure(page.few), Fold("Rounding in the loop and afterwards, in numbers", table))


def show_steps(page: Page) -> Exhibit:
    """What vectors of few bits take to find."""
    loop = page.crams[page.crams["bits"].notna()]
    lost, steps = loop[~loop["exact"]], dict(tuple(loop.groupby("bits")["steps"]))
    right = words.share(lost["correct_teacher"].sum() / lost["length"].sum())
    early = f", with {right} of their tokens right given the true ones: an early error alone ends a prefix"
    more = words.difference(steps[min(steps)], steps[max(steps)], 0)
    return Exhibit(
        f"**At {_bits_a_number(min(steps))} the loop takes {more} steps more than at {max(steps):.0f}.** Difference "
        f"of the means of {page.n} passages, 95 % interval; runs end at {words.budgets(loop)} at the latest. "
        f"{len(lost)} of all {len(loop)} ended there unsolved{early if right else ''}."
    )


def glue_numbers(page: Page) -> None:
    """What other pages quote."""
    glue(
        bits_in_the_loop=_bits_a_number(page.fewest[IN_THE_LOOP]),
        bits_afterwards=_bits_a_number(page.fewest[AFTER]),
        bits_a_token=f"{page.least_bits / page.size:.0f}",
    )
