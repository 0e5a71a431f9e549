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
from cramming.results.rows import crammed, device_name
from cramming.rounding import quantise, stored_bits
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit, glue
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

    @cached_property
    def setting(self) -> str:
        """Model, weights, number of mem vectors, machine of this page and number format, for captions."""
        machine = device_name(self.lm.device)
        return f"{words.setting(self.results)}; {machine}, {self.results['dtype'].iloc[0]}"

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
        Indexed by what and amount: n (passages), cases (more, if noise is drawn several times), stored_bits (of the
        vectors of a passage), degrees (mean angle to the vectors before), exact_mean, exact_sd, exact_sem (tokens),
        share_mean, share_sem (of the tokens of a passage), whole (cases of which every token is left), bits_per_token
        (bits stored over tokens left, sums over passages; infinite if none is left).
    """
    rows = {}
    share = frame["exact"] / frame["length"]
    for key, some in frame.assign(share=share).groupby(["what", "amount"], sort=False):
        rows[key] = {
            "n": some["passage"].nunique(),
            "cases": len(some),
            "stored_bits": some["stored_bits"].mean(),
            "degrees": some["degrees"].mean(),
            "exact_mean": some["exact"].mean(),
            "exact_sd": some["exact"].std(),
            "exact_sem": some["exact"].sem(),
            "share_mean": some["share"].mean(),
            "share_sem": some["share"].sem(),
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
            "bits a vector": f"{row.stored_bits:,.0f}",
            "angle, degrees": f"{row.degrees:.1f}" if row.degrees == row.degrees else "",
            "exact tokens left": words.spread(row.exact_mean, row.exact_sd),
            "passages whole": f"{row.whole} of {row.n}",
            "bits of vector a token left": f"{row.bits_per_token:,.0f}" if np.isfinite(row.bits_per_token) else "",
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
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    frame = summary.reset_index()
    names = [what for what in dict.fromkeys(frame["what"]) if "float" not in what]
    for what, (colour, marker, style) in zip(names, _LINES, strict=False):
        some = frame[frame["what"] == what]
        mean, error = some["share_mean"] * 100, some["share_sem"].fillna(0) * 100
        panels = [(axes[1], some["degrees"])]
        if some["stored_bits"].notna().any():
            panels.append((axes[0], some["amount"]))
        for axis, along in panels:
            axis.plot(along, mean, style, color=colour, marker=marker, markersize=5, linewidth=2, label=what)
            axis.fill_between(along, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    bits = sorted(frame.loc[frame["what"].isin(names) & frame["stored_bits"].notna(), "amount"].unique())
    axes[0].set(xlabel="bits a number", ylabel="exact tokens left, % of passage", ylim=(-3, 103), xticks=bits)
    axes[1].set(xlabel="angle to the vector found, degrees (log scale)", xscale="log")
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


@styled
def few_bits_figure(frame: pd.DataFrame) -> Figure:
    """Passages that stay whole, and exact tokens, against bits a number, by when mem was rounded.

    Args:
        frame: From `few_bits`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4))
    amounts = sorted(frame["amount"].unique())
    place = {amount: at for at, amount in enumerate(amounts)}  # evenly spaced, or 32 would push the few together
    names = list(dict.fromkeys(frame["what"]))
    for i, (what, (colour, marker, style)) in enumerate(zip(names, _LINES, strict=False)):
        some = frame[frame["what"] == what]
        whole = (some["exact"] == some["length"]).groupby(some["amount"]).mean() * 100
        tokens = some.groupby("amount")["exact"].mean()
        for axis, line in zip(axes, (whole, tokens), strict=True):
            axis.plot(line.index.map(place), line, style, color=colour, marker=marker, linewidth=2, label=what)
        # Side by side, since many passages keep equally many.
        beside = some["amount"].map(place) + (i - 1) * 0.15
        axes[1].plot(beside, some["exact"], marker, color=colour, markersize=3.5, alpha=0.45)
    for axis, label in zip(axes, ("passages whole, %", "exact tokens left"), strict=True):
        axis.set(xlabel="bits a number", ylabel=label)
        axis.set_xticks(range(len(amounts)), [f"{amount:g}" for amount in amounts])
        axis.grid(visible=False, axis="x")
    axes[0].set(ylim=(-3, 103))
    axes[1].set(ylim=(-0.03 * frame["length"].max(), 1.03 * frame["length"].max()))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _bits_a_number(bits: float) -> str:
    """A number of bits, for captions."""
    return f"{bits:.0f} bits a number" if bits == bits else "no number of bits tried"


def show_finding(page: Page) -> Exhibit:
    """The fewest bits at which all stay exact, against what tokens carry."""
    n, size, information = page.n, page.size, information_per_token(page.plain)
    whole = page.few_survived[page.few_survived["whole"] > 0].reset_index()
    fewest = ""
    if len(whole):
        least = whole.sort_values(["amount", "whole"], ascending=[True, False]).iloc[0]
        per_token = least["stored_bits"] / size
        fewest = (
            f"At {least['amount']:.0f} bit{'s' if least['amount'] > 1 else ''} a number ({least['what']}) "
            f"{least['whole']} of {n} are still exact, at {per_token:.0f} bits a token, {per_token / information:.1f} "
            "times what it carries. "
        )
    return Exhibit(
        f"**All {n} passages of {size} tokens stay exact down to {_bits_a_number(page.fewest[IN_THE_LOOP])} if mem is "
        f"rounded while it is crammed, and down to {_bits_a_number(page.fewest[AFTER])} if it is rounded "
        f"afterwards.** With {page.spare['stop_margin'].iloc[0]:g} logits to spare {len(page.found)} of them could be "
        f"found within the budget, and those stay exact down to {_bits_a_number(page.fewest.get(SPARE, np.nan))} when "
        f"rounded. The fewest of everything tried at which all stay exact, {_bits_a_number(page.fewest.min())}, is "
        f"{page.least_bits:,.0f} bits of vector, {page.least_bits / size:,.0f} a token; a token of these passages "
        f"carries {information:.1f} bits. {fewest}That none of {n} is lost leaves room for up to "
        f"{1 - 0.05 ** (1 / n):.0%} of such passages to be lost (95 % confidence)."
    )


def show_survival_table(page: Page) -> Exhibit:
    """What rounding leaves of horizons."""
    ranges, runs = [], page.horizons
    for what, fewest in fewest_bits(page.changed).groupby("what", sort=False)["fewest"]:
        if "scale" in str(what):
            kept = fewest.dropna()
            spread = f"{kept.median():g} (median; {kept.min():g} to {kept.max():g}) for {len(kept)} of"
            ranges.append(f"with a {what} {spread if len(kept) else 'none for'} {len(fewest)} passages")
    best = page.survived[page.survived["stored_bits"].notna()]["bits_per_token"]
    way, amount = best.idxmin()
    caption = (
        f"**Fewest bits a number at which a whole horizon stays exact, and at all more tried: {'; '.join(ranges)}.** "
        f"Any others lose a token even at {max(page.bits)} bits. A block is {page.block} numbers. Tokens left: mean "
        "over passages ± sample standard deviation; bits a token: bits of the vectors over tokens left, both summed "
        f"over passages. The fewest are {best.min():.0f} bits a token, {way}, {amount:g} bits a number. A token of "
        f"these horizons carries {information_per_token(runs):.1f} bits. {page.setting}; exact horizons of "
        f"{runs['length'].min()} to {runs['length'].max()} tokens within {words.budgets(runs)} a passage, "
        f"{', '.join(f'{count} {source}' for source, count in runs['source'].value_counts().items())}. "
        f"{words.cost(runs)}."
    )
    return Exhibit(caption, survival_table(page.survived))


def show_survival_figure(page: Page) -> Exhibit:
    """What rounding, noise and zeroing leave of horizons."""
    noise, zeroed = page.survived.loc["noise"], page.survived.loc["zeroed"]
    kept, near = noise["share_mean"], noise.index.get_indexer([10], "nearest")[0]
    lowest, middle = zeroed.iloc[0], zeroed.iloc[len(zeroed) // 2]
    caption = (
        f"**Turned by {noise.index.min():g} degree{'s' if noise.index.min() != 1 else ''} in a random direction a "
        f"vector keeps {kept.iloc[0]:.0%} of its passage, by {noise.index[near]:g} degrees {kept.iloc[near]:.0%}, by "
        f"{noise.index.max():g} degrees {kept.iloc[-1]:.0%}.** Left: share of the passage that is left after "
        "rounding. Right: the same, and what noise and zeroing leave, against the angle by which each turns the "
        "vector; where the lines meet, it is the angle that counts and not what caused it. Setting the smallest "
        f"{lowest.name:.0%} of the numbers to 0 turns a vector by {lowest['degrees']:.1f} degrees and leaves "
        f"{lowest['share_mean']:.0%}, the smallest {middle.name:.0%} turn it by {middle['degrees']:.0f} degrees and "
        f"leave {middle['share_mean']:.0%}. Lines: means over {page.horizons['passage'].nunique()} passages, noise "
        f"drawn {page.draws} times for each; bands: one standard error. {page.setting}; vectors as above."
    )
    return Exhibit(caption, survival_figure(page.survived))


def show_few_bits_table(page: Page) -> Exhibit:
    """Rounding in the loop and afterwards."""
    loop = page.crams[page.crams["bits"].notna()]
    medians = loop.groupby("bits")["steps"].median().sort_index(ascending=False)
    steps = ", ".join(f"{value:.0f} at {bits:.0f} bit{'s' if bits > 1 else ''}" for bits, value in medians.items())
    lost = loop[~loop["exact"]]
    given_up = (
        f"In the loop {len(lost)} runs were given up at the end of their budget; "
        f"{lost['correct_teacher'].sum() / lost['length'].sum():.0%} of their tokens are right given the true ones "
        "before, but an early one is not, and the prefix is short. "
        if len(lost)
        else ""
    )
    caption = (
        f"**All {page.n} passages stay exact down to {_bits_a_number(page.fewest[IN_THE_LOOP])} in the loop and "
        f"{_bits_a_number(page.fewest[AFTER])} afterwards.** The same {page.n} passages of {page.size} tokens "
        f"throughout, but with margin only the {len(page.found)} for which a vector was found that exact and that "
        "clear. Whole: every token exact. Exact tokens left: the longest prefix that is, mean ± sample standard "
        f"deviation. Angle: to the vector before rounding. {given_up}Median steps in the loop: {steps}; without "
        f"rounding {page.plain['steps'].median():.0f}, with margin {page.spare['steps'].median():.0f}. "
        f"{page.setting}; in the loop and with margin at most {words.budgets(page.spare)}, without either at most "
        f"{words.budgets(page.plain)}. {words.cost(page.crams)}."
    )
    return Exhibit(caption, survival_table(page.few_survived, "rounded when"))


def show_few_bits_figure(page: Page) -> Exhibit:
    """The same, passage by passage."""
    caption = (
        f"**Rounding in the loop against rounding afterwards, {page.size} tokens.** Left: share of the passages that "
        "stay exact as a whole; right: exact tokens left, means as lines, passages as small marks. 32 bits: not "
        f"rounded. {page.setting}; n = {page.n} passages, {len(page.found)} with margin."
    )
    return Exhibit(caption, few_bits_figure(page.few))


def glue_numbers(page: Page) -> None:
    """What other pages quote."""
    glue(
        bits_in_the_loop=_bits_a_number(page.fewest[IN_THE_LOOP]),
        bits_afterwards=_bits_a_number(page.fewest[AFTER]),
        bits_a_token=f"{page.least_bits / page.size:.0f}",
    )
