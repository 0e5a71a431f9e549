"""Growing a prefix one token at a time: what each token costs, which one stops it, and where the vector goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from cramming import metrics
from cramming.decode import nats_and_gaps, ranks
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.published import published
from cramming.sphere import along_sphere, chord_degrees, needed, onto_sphere, principal
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, source_marks, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage

AGAINST = {"nats": "surprisal", "rank": "rank of the token", "position": "position"}  # what steps are held against


class Page(AnyPage):
    """Prefixes that grew token by token: by our recipe, and by the published one."""

    def __init__(self, scale: str) -> None:
        super().__init__("growth", scale)
        self.ours = self.results[self.results["recipe"] == "horizon"]
        self.said = published("growth").set_index("quantity")

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """From `costs`, of all runs."""
        return costs(self.lm, self.results)

    @cached_property
    def mine(self) -> pd.DataFrame:
        """The tokens of our runs."""
        return self.tokens[self.tokens["recipe"] == "horizon"]

    @cached_property
    def free(self) -> tuple[float, float, float]:
        """Share of our tokens that were right as soon as they were added, with its 95 % interval over passages."""
        got = _got(self.mine)
        counts = (got["steps"] <= 1).groupby(got["passage"]).agg(["sum", "size"])
        free, all_of_them = counts["sum"].to_numpy(), counts["size"].to_numpy()
        return free.sum() / all_of_them.sum(), *words.ratio_interval(free, all_of_them)

    @cached_property
    def correlations(self) -> dict[str, pd.DataFrame]:
        """From `correlations`, of all runs, by what the steps are held against."""
        return {name: correlations(self.tokens, column) for column, name in AGAINST.items()}

    def correlation(self, against: str, column: str = "rho") -> dict[str, float]:
        """Mean over our runs of one of the correlations, from `mean_interval`."""
        return mean_interval(self.correlations[against].query("recipe == 'horizon'")[column])

    @cached_property
    def stops(self) -> pd.DataFrame:
        """From `stops`, of all runs."""
        return stops(self.lm, self.results, self.tokens, self.vectors)

    @cached_property
    def without_stop(self) -> str:
        """How many runs are among `stops`, and why the others are not, for captions."""
        runs = self.tokens.groupby(["recipe", "passage"])["got"].agg(["all", "sum"])
        reasons = {
            "ended with no token under way": runs["all"],
            "held too little to compare": ~runs["all"] & (runs["sum"] < 2),
        }
        left_out = [
            f"{n} of {recipe} {why}"
            for why, these in reasons.items()
            for recipe, n in these.groupby("recipe").sum().items()
            if n
        ]
        return f"n = {len(self.stops)} of {len(runs)} runs" + (f": {words.listed(left_out)}" if left_out else "")

    @cached_property
    def ways(self) -> pd.DataFrame:
        """From `trajectories`, of our runs."""
        return trajectories(self.paths, self.ours)

    @cached_property
    def two(self) -> pd.Series:
        """Share of the variance that the first two components hold, mean over passages, by what went the way."""
        return self.ways.groupby("what")["two"].mean()


def costs(lm: FrozenLM, results: pd.DataFrame) -> pd.DataFrame:
    """Steps that each token took, from the step it was added in to the one that had it and all before it right.

    The trace of a long run is thinned in the store. There a token's steps are known only as exactly as the steps that
    were kept lie apart, and tokens between two of these cost 0 or share nothing: compare such runs with themselves.

    Args:
        lm: The frozen model.
        results: Rows of kind horizon that grew by one token, from one.

    Returns:
        One row a token of each exact prefix, and one for the token that growth ended at: recipe, source, passage,
        position (0 is the first), token (id), nats and rank (of the token without mem, given those before it; nan for
        the first, of which the model says nothing), steps, share (of the run's steps), got (whether it was), mistakes
        (tokens wrong at a step, mean over its steps), lost (share of its steps at which more than one token was
        wrong, so that at least one was wrong that had been right).

    Raises:
        CrammingError: If a run grew by more than one token.
    """
    parts = []
    for run in results.itertuples():
        growth = Recipe.model_validate_json(run.recipe_json).growth
        if growth is None or (growth.start, growth.block, growth.fraction) != (1, 1, 0):
            raise CrammingError(
                f"{run.passage} did not grow token by token: take runs with growth start 1 and block 1"
            )
        step, under, right = (np.asarray(getattr(run, f"trace_{name}")) for name in ("step", "length", "accuracy"))
        n = int(under.max())
        ids = list(map(int, run.token_ids[:n]))
        begun = np.append(step[np.searchsorted(under, np.arange(1, n + 1))], run.steps + 1)
        wrong = np.round((1 - right) * under)
        of = pd.DataFrame({"position": under - 1, "mistakes": wrong, "lost": wrong > 1}).groupby("position").mean()
        nats, places = _plain(lm, ids)
        frame = pd.DataFrame(
            {
                "recipe": run.recipe,
                "source": run.source,
                "passage": run.passage,
                "position": range(n),
                "token": ids,
                "nats": nats,
                "rank": places,
                "steps": np.diff(begun),
                "share": np.diff(begun) / run.steps,
                "got": np.arange(n) < run.length,
            }
        )
        parts.append(frame.join(of, on="position"))
    return pd.concat(parts, ignore_index=True)


def correlations(tokens: pd.DataFrame, against: str = "nats") -> pd.DataFrame:
    """Spearman correlation of the steps of tokens with what they are without mem, run by run.

    What a token costs also depends on where it stands, whatever it is. So a correlation is given with the position
    taken out as well: of what is left of both ranks after a least-squares line in the rank of the position.

    Args:
        tokens: From `costs`; the first token, and those that were not got, are left out.
        against: The column to correlate with: nats, rank or position.

    Returns:
        One row a run: recipe, source, passage, n (tokens), rho, rho_within (position taken out; nan for the position
        itself, or where nothing is left). With fewer than three tokens both are nan.
    """
    rows = []
    for (recipe, source, passage), some in tokens.groupby(["recipe", "source", "passage"], sort=False):
        some = _got(some)
        steps, other, place = (some[name].rank().to_numpy() for name in ("steps", against, "position"))
        both = (math.nan, math.nan)
        if len(some) > 2:
            both = _r(steps, other), _r(_rest(steps, place), _rest(other, place))
        rows.append((recipe, source, passage, len(some), *both))
    return pd.DataFrame(rows, columns=["recipe", "source", "passage", "n", "rho", "rho_within"])


def mean_interval(values: pd.Series) -> dict[str, float]:
    """n, mean, low and high (95 % bootstrap interval over runs) of the numbers that are there; nan without any."""
    some = values.dropna()
    low, high = metrics.bootstrap_ci(some) if len(some) else (math.nan, math.nan)
    return {"n": len(some), "mean": float(some.mean()), "low": low, "high": high}


@torch.no_grad()
def stops(
    lm: FrozenLM, results: pd.DataFrame, tokens: pd.DataFrame, vectors: Mapping[str, torch.Tensor]
) -> pd.DataFrame:
    """Where growth ended, and what the kept vector says of the token that it ended at.

    Args:
        lm: The frozen model.
        results: Rows as for `costs`.
        tokens: From `costs`.
        vectors: The kept vectors by key, each (k, d).

    Returns:
        One row a run that was still at a token when it ended: recipe, passage, length (exact tokens), ended,
        token (its text), harder (share of the prefix's tokens that surprise less), steps (spent on it, in vain) and
        lost (see `costs`), rank_with and gap (logits; by how much it misses with the kept vector, which holds the
        prefix), hardest (steps of the costliest token got).
    """
    rows = []
    for run in results.itertuples():
        mine = tokens[(tokens["passage"] == run.passage) & (tokens["recipe"] == run.recipe)]
        got, last = _got(mine), mine[~mine["got"]]
        if last.empty or got.empty:
            continue
        last = last.iloc[0]
        ids = torch.tensor([list(map(int, run.token_ids[: run.length + 1]))], device=lm.device)
        embeds = vectors[run.key][None].to(lm.device, lm.dtype)
        inputs = torch.cat([embeds, lm.model.get_input_embeddings()(ids[:, :-1])], dim=1)
        logits = lm.model(inputs_embeds=inputs, use_cache=False).logits[:, -1:].float()
        _, gap = nats_and_gaps(logits, ids[:, -1:])
        rows.append(
            {
                "recipe": run.recipe,
                "passage": run.passage,
                "length": run.length,
                "ended": run.ended,
                "token": lm.tokenizer.decode(ids[0, -1:].tolist()),
                "harder": (got["nats"] < last["nats"]).mean(),
                **last[["steps", "lost"]],
                "rank_with": int(ranks(logits[0], ids[0, -1:])),
                "gap": float(gap),
                "hardest": got["steps"].max(),
            }
        )
    return pd.DataFrame(rows)


def trajectories(paths: Mapping[str, torch.Tensor], results: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The way of the vector as its prefix grows, and a random walk with steps as long.

    The way is that of the direction on the sphere of root mean square 1, one point a token. The random walk begins at
    the same direction and takes the same angles, each in a direction drawn anew: whatever it shows, the text has no
    part in. A random walk in many dimensions has most of its variance in few principal components too
    (arXiv 1806.08805).

    Args:
        paths: By key, from `cramming.results.store.Store.paths`, one mem vector each, shape (n, 1, d).
        results: Rows of the store; those with a path of at least three points are used.
        seed: Of the random walks.

    Returns:
        One row a passage and kind: source, passage, what (growth, random walk), tokens (points), gone (degrees along
        the way), net (degrees from its first point to its last), step (degrees of a move, mean), cosine (of a move
        with the one before, mean), two (share of the variance of the first two principal components), needed_90 and
        needed_99 (components that hold so much of it).
    """
    rows = []
    for run in results.itertuples():
        path = paths.get(run.key)
        if path is None or len(path) < 3:
            continue
        path = onto_sphere(path[:, 0].double())
        for what, way in (("growth", path), ("random walk", walk_like(path, seed))):
            moves = along_sphere(way.diff(dim=0), way[:-1])
            angles = _angles(way[:-1], way[1:])
            _, shares = principal(way)
            rows.append(
                {
                    "source": run.source,
                    "passage": run.passage,
                    "what": what,
                    "tokens": len(way),
                    "gone": float(angles.sum()),
                    "net": float(_angles(way[:1], way[-1:])),
                    "step": float(angles.mean()),
                    "cosine": float(torch.nn.functional.cosine_similarity(moves[1:], moves[:-1]).mean()),
                    "two": shares[:2].sum(),
                    "needed_90": needed(shares, 0.9),
                    "needed_99": needed(shares, 0.99),
                }
            )
    return pd.DataFrame(rows)


def walk_like(path: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A random walk on the sphere of root mean square 1, with the start and angles of a path (n, d), shape (n, d)."""
    path = onto_sphere(path)
    generator, way = torch.Generator().manual_seed(seed), [path[0]]
    for angle in torch.deg2rad(_angles(path[:-1], path[1:])):
        noise = torch.randn(1, path.shape[1], generator=generator, dtype=path.dtype)
        side = onto_sphere(along_sphere(noise, way[-1][None]))[0]
        way.append(torch.cos(angle) * way[-1] + torch.sin(angle) * side)
    return torch.stack(way)


def _angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Degrees between the rows of two tensors (n, d) on one sphere, shape (n,)."""
    return chord_degrees((a - b).norm(dim=1) / a.norm(dim=1))


def _got(tokens: pd.DataFrame) -> pd.DataFrame:
    """The tokens that were got, without the first of each passage."""
    return tokens[tokens["got"] & (tokens["position"] > 0)]


@torch.no_grad()
def _plain(lm: FrozenLM, ids: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nats and rank of each token of the plain text, both (L,), nan for the first."""
    nats, places = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    if len(ids) > 1:
        tokens = torch.tensor([ids], device=lm.device)
        logits = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        nats[1:] = nats_and_gaps(logits, tokens[:, 1:])[0][0].cpu()
        places[1:] = ranks(logits[0], tokens[0, 1:]).cpu()
    return nats, places


def _rest(values: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a least-squares line along another variable leaves of values, both (n,)."""
    values, along = values - values.mean(), along - along.mean()
    return values - along * (values @ along) / max(float(along @ along), 1e-12)


def _r(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of two arrays (n,), nan where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-9 else math.nan


def correlations_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean Spearman correlations over runs, as a page shows them.

    Args:
        frames: From `correlations`, by what the steps are held against.
    """
    rows = {}
    for recipe in next(iter(frames.values()))["recipe"].unique():
        for name, frame in frames.items():
            some = frame[frame["recipe"] == recipe]
            known = {
                label: mean_interval(some[column])
                for label, column in (("Spearman", "rho"), ("position taken out", "rho_within"))
            }
            rows[f"{recipe} (n = {known['Spearman']['n']} of {len(some)})", name] = {
                label: words.interval(one["mean"], one["low"], one["high"], 2) for label, one in known.items()
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["recipe", "steps against"])


def ends_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`stops` summed up, one row a recipe: shares are means with their 95 % interval, all else medians over runs."""
    rows = {}
    for recipe, some in frame.groupby("recipe"):
        ended = [f"{n} by {why}" for why, n in some["ended"].value_counts().items()]
        rows[f"{recipe} (n = {len(some)})"] = {
            "surprises more than": words.share_mean(some["harder"]),
            "steps in vain": f"{some['steps'].median():,.0f}",
            "steps of the dearest got": f"{some['hardest'].median():,.0f}",
            "in vain, an earlier one wrong": words.share_mean(some["lost"].dropna()),
            "misses by, logits": f"{-some['gap'].median():.1f}",
            "ended": ", ".join(ended),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")


def stops_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`stops` as a page shows it, one row a run."""
    return pd.DataFrame(
        {
            "recipe": frame["recipe"],
            "exact tokens": frame["length"],
            "next token": [repr(token) for token in frame["token"]],
            "surprises more than": frame["harder"].map(words.share),
            "steps in vain": frame["steps"].map("{:,.0f}".format),
            "rank with mem": frame["rank_with"].map("{:,}".format),
        }
    ).set_index(pd.Index(frame["passage"], name="passage"))


def trajectories_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`trajectories` summed up: mean ± standard deviation over passages, and the difference passage by passage."""
    rows = {}
    for label, column, digits, by in (
        ("first two components, %", "two", 1, 100),
        ("components for 90 %", "needed_90", 1, 1),
        ("components for 99 %", "needed_99", 1, 1),
        ("cosine of successive moves", "cosine", 2, 1),
        ("end from start, degrees", "net", 0, 1),
    ):
        each = frame.pivot_table(column, "passage", "what") * by
        more = mean_interval(each["growth"] - each["random walk"])
        rows[label] = {what: words.spread(some.mean(), some.std(), digits) for what, some in each.items()}
        rows[label]["growth less walk"] = words.interval(more["mean"], more["low"], more["high"], digits)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")


@styled
def costs_figure(tokens: pd.DataFrame) -> Figure:
    """Steps of every token against its surprisal, and below the steps spent so far against the tokens got.

    Args:
        tokens: From `costs`, of one recipe.
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 7.8))
    some = _got(tokens).assign(bits=lambda got: got["nats"].map(metrics.nats_to_bits))
    known = []
    for source, (colour, marker) in source_marks(tokens["source"]).items():
        style = {"novels": "-", "fresh": "--"}.get(source, ":")
        marks, runs = (frame[frame["source"] == source] for frame in (some, tokens[tokens["got"]]))
        top.plot(marks["bits"], marks["steps"], marker, color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
        for _, run in runs.groupby("passage"):
            bottom.plot(run["position"] + 1, run["steps"].cumsum(), style, color=colour, linewidth=1, alpha=0.7)
        known += bottom.plot([], [], style, color=colour, marker=marker, markersize=5, label=source)
    means = some.groupby(pd.cut(some["bits"], words.SURPRISE, right=False), observed=True)[["bits", "steps"]].mean()
    known += top.plot(means["bits"], means["steps"], color="black", linewidth=2, label="mean of a class of surprisal")
    top.set(yscale="log", xlabel="surprisal without mem, bits", ylabel="steps of a token (log scale)")
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bottom.set(xlabel="exact tokens", ylabel="steps so far", xlim=(0, None), ylim=(0, None))
    figure.legend(handles=known, loc="outside upper left", ncols=3)
    return figure


@styled
def trajectories_figure(frame: pd.DataFrame, path: np.ndarray, walk: np.ndarray) -> Figure:
    """One way of the vector on its first two principal components, and below the variance that these hold.

    Args:
        frame: From `trajectories`.
        path: Coordinates of a vector's way, shape (n, c), from `cramming.sphere.principal`.
        walk: The same of a random walk like it.
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 7.4))
    for points, what, colour, style, marker in (
        (path, "growth", COLOURS[0], "-", "o"),
        (walk, "random walk", COLOURS[1], "--", "^"),
    ):
        top.plot(*points[:, :2].T, style, color=colour, linewidth=1.2, marker=marker, markersize=4, label=what)
        top.plot(*points[:1, :2].T, "o", color=colour, markersize=10)
        top.plot(*points[-1:, :2].T, "s", color=colour, markersize=9)
        some = frame[frame["what"] == what]
        bottom.plot(some["tokens"], some["two"] * 100, marker, color=colour, markeredgecolor="black", alpha=0.8,
                    markeredgewidth=0.5)  # fmt: skip
    top.set(xlabel="first component", ylabel="second component")
    bottom.set(xlabel="points of the way (tokens)", ylabel="first two, % of the variance", ylim=(0, 104))
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def _within(some: dict[str, float]) -> str:
    """From `mean_interval`, for captions."""
    return words.within(some["mean"], some["low"], some["high"], 2)


def show_answer(page: Page) -> Answer:
    """How far steps follow surprisal."""
    said = page.said.loc["spearman_steps_surprisal"]
    rho, within = page.correlation("surprisal"), page.correlation("surprisal", "rho_within")
    other = mean_interval(page.correlations["surprisal"].query("recipe == 'progressive'")["rho"])
    return Answer(
        page.setting,
        "Does a token that surprises the model take longer to hold?",
        f"The steps that a token takes go with its surprisal at a rank correlation of **{_within(rho)}** within a "
        f"passage, {_within(within)} with its position taken out; published are {said['low']:.2f} to "
        f"{said['high']:.2f}, for {said['models']}.",
        rests=f"Mean with 95 % interval over {words.counted(page.ours)} passages, {words.budgets(page.ours)} each",
        sure="holds here only" if rho["low"] > 0 else "open",
        why=f"one small model and our recipe; the published one gives {_within(other)} here, over {other['n']} runs",
    )


def show_costs(page: Page) -> Exhibit:
    """Steps of each token against its surprisal, and the steps so far."""
    steps = _got(page.mine)["steps"]
    dear = steps.nlargest(max(1, len(steps) // 10)).sum() / steps.sum()
    caption = (
        f"**{words.percent(*page.free)} of the tokens are right as soon as they are added; the dearest tenth takes "
        f"{dear:.0%} of the steps.** Above: one mark a token ({len(steps):,}), without the first of a passage "
        "and the last, which growth ended at. Below: one line a passage; flat stretches are cheap. "
        f"n = {words.counted(page.ours)} passages."
    )
    return Exhibit(caption, costs_figure(page.mine))


def show_correlations(page: Page) -> Exhibit:
    """Steps against surprisal, rank and position, for both recipes."""
    rho, place = page.correlation("surprisal"), page.correlation("position")
    caption = (
        f"**Steps of our runs go with surprisal at {_within(rho)}, with position at {_within(place)}.** Spearman "
        "correlations within a run, mean over runs, 95 % intervals; runs with under three tokens to rank have none. "
        "*Position taken out*: of what a line in its rank leaves. Last tokens are missing, which draws towards 0."
    )
    return Exhibit(caption, correlations_table(page.correlations))


def show_explored(page: Page, n: int) -> Exhibit:
    """The caption of n passages in the explorer."""
    return Exhibit(
        f"**The first {n} passages by name, two a source, with the 8 tokens behind each.** Surprisal in bits, given "
        "the true tokens before. *Right*: the argmax, given the same. A token's step is the first by which it and all "
        "before it were right. Underlined tokens are the prefix; those behind it were never asked of this vector."
    )


def show_stops(page: Page) -> Exhibit:
    """The token that each run ended at."""
    caption = (
        f"**Growth ends at a token that surprises more than {words.share_mean(page.stops['harder'])} of those before "
        "it** (chance: half). Shares are means with 95 % intervals, all else medians over runs. "
        f"{page.without_stop}."
    )
    return Exhibit(caption, ends_table(page.stops), Fold("The token that each run ended at", stops_table(page.stops)))


def show_way(page: Page) -> Exhibit:
    """The longest way of a vector beside a random walk, and what two components hold of all ways."""
    longest = max((page.paths[key] for key in page.ours["key"] if key in page.paths), key=len)
    path = onto_sphere(longest[:, 0].double())
    said = page.said.loc["pca_first_two"]
    more = page.ways.pivot_table("two", "passage", "what") * 100
    caption = (
        f"**The first two components hold {page.two['growth']:.0%} of the variance of the way, "
        f"{words.mean(more['growth'] - more['random walk'], 1)} points beside a random walk.** Above: the longest "
        f"way, {len(path)} points, and a walk like it, each on its own components; disc: start, square: end. Below: "
        f"n = {len(more)} passages. Published for {said['models']}: {said['low']:.0%}."
    )
    return Exhibit(caption, trajectories_figure(page.ways, principal(path)[0], principal(walk_like(path))[0]))


def show_ways(page: Page) -> Exhibit:
    """Ways in numbers, beside random walks."""
    each, said = page.ways.pivot_table("needed_99", "passage", "what"), page.said.loc["pca_99"]
    caption = (
        "**To hold 99 % of the variance a random walk needs "
        f"{words.mean(each['random walk'] - each['growth'], 1)} components more than growth.** Mean ± standard "
        f"deviation over n = {len(each)} passages; differences passage by passage, 95 % intervals. Cosine 0: no "
        "memory; below: turning back. Published for 99 %, over hundreds of points: "
        f"{said['low']:.0f} to {said['high']:.0f} components ({said['models']})."
    )
    return Exhibit(caption, trajectories_table(page.ways))


def glue_numbers(page: Page) -> None:
    """Numbers that other pages quote."""
    rho = page.correlation("surprisal")
    glue(
        growth_rho=_within(rho),
        growth_free=f"{page.free[0]:.0%}",
        growth_two=f"{page.two['growth']:.0%}",
        walk_two=f"{page.two['random walk']:.0%}",
        n_growth=f"{rho['n']}",
    )
