"""Where the many solutions of one text lie: how alike their vectors are, and what lies between two of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity, normalize

from cramming import metrics, sphere
from cramming.decode import teacher_forced
from cramming.engine import first_mem, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.rows import crammed
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage

ROWS = 16  # sequences that go through the network together
GOLDEN = (math.sqrt(5) - 1) / 2
FINE = 201  # points that the length of a way is measured with
DEALS = 10_000  # of texts to vectors at random


class Page(AnyPage):
    """The runs that can be compared, their vectors, and the ways between them."""

    def __init__(self, scale: str, points: int, pairs_a_text: int, bend_steps: int) -> None:
        super().__init__("solutions", scale)
        self.points, self.bend_steps = points, bend_steps
        self.runs = solutions(self.results)
        self.passages, self.texts = crammed(self.runs, self.lm), self.runs["passage"].tolist()
        self.directions = sphere.onto_sphere(torch.cat([self.vectors[key] for key in self.runs["key"]]))
        (self.radius,) = {Recipe.model_validate_json(text).radius for text in self.runs["recipe_json"]}
        self.without = (self.runs["correct_without"] / self.runs["length"]).mean()
        self.within, self.between = pairs_within(self.texts, pairs_a_text), pairs_between(self.texts)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """From `similarity`, of all vectors."""
        return similarity(self.directions, self.texts)

    @cached_property
    def by_text(self) -> pd.DataFrame:
        """From `similarity_by_text`."""
        return similarity_by_text(self.pairs)

    def line(self, pairs: Sequence[tuple[int, int]], end: int = 0, **how: Any) -> pd.DataFrame:
        """From `walk`: straight between pairs of vectors, looking for the passages of the first ends, or the last."""
        passages, ends = [self.passages[pair[end]] for pair in pairs], self.directions[torch.tensor(pairs)]
        return walk(self.lm, passages, ends, self.radius, **{"count": self.points, **how})

    @cached_property
    def lines(self) -> dict[str, pd.DataFrame]:
        """The straight lines from a vector, by what to call them."""
        return {
            "to another vector of the text": self.line(self.within),
            "to a vector of another text": self.line(self.between),
            "from a vector of another text": self.line(self.between, end=1),
        }

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """One pair of vectors a text: the straight line between them, and the curve."""
        once = pairs_within(self.texts, 1)
        passages, ends = [self.passages[i] for i, _ in once], self.directions[torch.tensor(once)]
        controls = bend(self.lm, passages, ends, self.radius, steps=self.bend_steps)
        straight = self.lines["to another vector of the text"]
        return {
            "straight line": straight[straight["way"].isin([self.within.index(pair) for pair in once])],
            "trained curve": walk(self.lm, passages, controls, self.radius, count=self.points),
        }


def solutions(results: pd.DataFrame) -> pd.DataFrame:
    """The runs that are exact, by passage and seed; all of them if too few are exact to compare.

    Args:
        results: Rows of kind cram with one mem vector, the same passages from several seeds.

    Raises:
        CrammingError: If there are not two passages with two runs each.
    """
    runs = results.sort_values(["source", "passage", "seed"], ignore_index=True)
    for some in (runs[runs["exact"]], runs):
        if (some["passage"].value_counts() >= 2).sum() >= 2:
            return some.reset_index(drop=True)
    raise CrammingError(
        f"{len(runs)} runs of {runs['passage'].nunique()} passages cannot be compared: give at least 2 passages with "
        "2 runs each"
    )


def similarity(directions: torch.Tensor, texts: Sequence[str]) -> pd.DataFrame:
    """Cosine between every two vectors.

    Args:
        directions: Shape (n, d); their length is ignored.
        texts: What each of them holds, n names.

    Returns:
        One row a pair: first and second (0 to n - 1), text and other (what they hold), same (whether that is one
        text), cosine.

    Raises:
        CrammingError: If the texts are not as many as the vectors.
    """
    if len(texts) != len(directions):
        raise CrammingError(f"{len(directions)} vectors and {len(texts)} texts: give one text a vector")
    points, names = sphere.unit(directions.double()).cpu().numpy(), np.asarray(texts, dtype=object)
    first, second = np.triu_indices(len(names), 1)
    return pd.DataFrame(
        {
            "first": first,
            "second": second,
            "text": names[first],
            "other": names[second],
            "same": names[first] == names[second],
            "cosine": (points @ points.T)[first, second],
        }
    )


def similarity_by_text(pairs: pd.DataFrame) -> pd.DataFrame:
    """`similarity` text by text.

    Returns:
        Index text; columns within (mean cosine of its vectors with each other), between (with those of other texts),
        more (within minus between). Texts with a single vector are left out.
    """
    both = pd.concat([pairs, pairs.rename(columns={"text": "other", "other": "text"})])
    which = both["same"].map({True: "within", False: "between"})
    means = both.pivot_table("cosine", "text", which)[["within", "between"]].rename_axis(columns=None)
    return means.assign(more=means["within"] - means["between"]).dropna()


def similarity_by_chance(pairs: pd.DataFrame, *, draws: int = DEALS, seed: int = 0) -> float:
    """How often vectors of one text come out as alike as they are when texts are dealt to vectors at random.

    A permutation test, one-sided: the share of deals whose mean cosine within a text is at least the one seen, the
    real deal counted among them.

    Args:
        pairs: From `similarity`.
        draws: Deals.
        seed: Of the deals.
    """
    first, second, cosines = (pairs[name].to_numpy() for name in ("first", "second", "cosine"))
    of = dict(zip(first, pairs["text"], strict=True)) | dict(zip(second, pairs["other"], strict=True))
    texts = pd.factorize(np.array([of[vector] for vector in range(len(of))], dtype=object))[0]
    rng, seen = np.random.default_rng(seed), cosines[texts[first] == texts[second]].mean()
    dealt = (rng.permutation(texts) for _ in range(draws))
    as_large = sum(cosines[deal[first] == deal[second]].mean() >= seen for deal in dealt)
    return float((1 + as_large) / (1 + draws))


def variance_between(directions: torch.Tensor, texts: Sequence[str]) -> tuple[float, float]:
    """Share of the variance of vectors (n, d) that lies between the means of their texts.

    Returns:
        That share, and the one to expect of vectors that know nothing of their texts: (texts - 1) / (n - 1).
    """
    points = pd.DataFrame(sphere.onto_sphere(directions.double()).cpu().numpy())
    means = points.groupby(np.asarray(texts, dtype=object)).transform("mean")
    share = ((means - points.mean()) ** 2).to_numpy().sum() / ((points - points.mean()) ** 2).to_numpy().sum()
    return float(share), (len(set(texts)) - 1) / (len(points) - 1)


@torch.no_grad()
def nearest_tokens(lm: FrozenLM, directions: torch.Tensor, passages: Sequence[Passage]) -> pd.DataFrame:
    """The token embedding that each vector is nearest to, by cosine, and how near those of a passage are.

    Args:
        lm: The frozen model.
        directions: Shape (n, d); their length is ignored.
        passages: What each is compared with, n passages.

    Returns:
        One row a vector: passage, token (id of the nearest), cosine (with it), inside (whether it occurs in the
        passage), first (whether it is token 0), own (mean cosine with the passage's different tokens), rank (of the
        nearest of these among all tokens; 1 is nearest).
    """
    table: torch.Tensor = lm.model.get_input_embeddings().weight  # type: ignore[assignment]
    cosines = normalize(directions.to(lm.device).float(), dim=1) @ normalize(table.float(), dim=1).T
    rows = []
    for each, passage in zip(cosines, passages, strict=True):
        ids, token = passage.token_ids, int(each.argmax())
        own = each[sorted(set(ids))]
        rank = 1 + int((each > own.max()).sum())
        rows.append((passage.id, token, float(each[token]), token in ids, token == ids[0], float(own.mean()), rank))
    return pd.DataFrame(rows, columns=["passage", "token", "cosine", "inside", "first", "own", "rank"])


def from_start(
    lm: FrozenLM, results: pd.DataFrame, directions: torch.Tensor, passages: Sequence[Passage]
) -> np.ndarray:
    """Cosine of each vector (n, d) with the noise that its run started from, shape (n,).

    Args:
        lm: The frozen model.
        results: Rows of kind cram with one mem vector, n of them.
        directions: Where they ended.
        passages: What they hold, in full.
    """
    starts = [
        first_mem(lm, passage, Recipe.model_validate_json(row.recipe_json), 1, row.seed)[0]
        for row, passage in zip(results.itertuples(), passages, strict=True)
    ]
    return cosine_similarity(torch.stack(starts).cpu().double(), directions.cpu().double()).numpy()


def pairs_within(texts: Sequence[str], most: int) -> list[tuple[int, int]]:
    """Pairs of vectors of one text, at most so many a text, no vector in two of them.

    Examples:
        >>> pairs_within(["a", "a", "b", "a", "a", "b"], 1)
        [(0, 1), (2, 5)]
    """
    places = pd.Series(range(len(texts))).groupby(np.asarray(texts, dtype=object), sort=False)
    return [pair for _, some in places for pair in list(zip(some[::2], some[1::2], strict=False))[:most]]


def pairs_between(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of vectors of two texts: the first of each text with the last of the next text.

    Examples:
        >>> pairs_between(["a", "a", "b", "b"])
        [(0, 3), (2, 1)]
    """
    places = pd.Series(range(len(texts))).groupby(np.asarray(texts, dtype=object), sort=False)
    firsts, lasts = places.first().tolist(), places.last().tolist()
    return list(zip(firsts, lasts[1:] + lasts[:1], strict=True))


def ways(controls: torch.Tensor, count: int) -> tuple[torch.Tensor, NDArray[np.float64], NDArray[np.float64]]:
    """Points along Bezier curves on the sphere, evenly spaced by angle, so that no part of a way is passed over.

    Args:
        controls: Shape (n, c, d), first and last the ends: c = 2 is a straight line, c = 3 has one control point.
        count: Points of each way, at least 2.

    Returns:
        The points before they are put onto the sphere, shape (n, count, d), ends included; their t, (n, count); and
        how long each way is in degrees, (n,).

    Raises:
        CrammingError: If count is below 2.
    """
    if count < 2:
        raise CrammingError(f"{count} points do not make a way: ask for at least 2, its ends")
    # Closer together at the ends, where a curve with a far control point turns fastest.
    fine = (1 - torch.cos(torch.linspace(0, math.pi, FINE, dtype=torch.float64))) / 2
    fine = fine.expand(len(controls), -1)
    points = _bezier(controls.double().cpu(), fine)
    points = points / points.norm(dim=2, keepdim=True)
    angles = sphere.chord_degrees(points.diff(dim=1).norm(dim=2))
    gone = np.pad(angles.cumsum(1).numpy(), ((0, 0), (1, 0)))
    t = np.stack([np.interp(np.linspace(0, each[-1], count), each, fine[0].numpy()) for each in gone])
    return _bezier(controls, torch.from_numpy(t).to(controls)), t, gone[:, -1]


@torch.no_grad()
def walk(
    lm: FrozenLM,
    passages: Sequence[Passage],
    controls: torch.Tensor,
    radius: float,
    *,
    count: int = 17,
    on_sphere: bool = True,
) -> pd.DataFrame:
    """What comes out of the vectors along ways between two.

    Args:
        lm: The frozen model.
        passages: What is looked for along each way.
        controls: As in `ways`, the ends on the sphere of root mean square 1.
        radius: S, the root mean square of mem's numbers.
        count: Points of each way.
        on_sphere: Whether each point is put back onto the sphere; if not, a straight line cuts through it.

    Returns:
        One row a way and point: way (0 to n - 1), passage, share (of the way by angle, 0 to 1), t (of the curve),
        degrees (length of the whole way), right (share of tokens, teacher-forced), nats (mean cross-entropy). Where
        every token is right, free decoding gives the passage back too.
    """
    points, t, lengths = ways(controls, count)
    shares, parts = np.linspace(0, 1, count), []
    for way, passage in enumerate(passages):
        mem = (sphere.onto_sphere(points[way]) if on_sphere else points[way])[:, None] * radius
        tokens = torch.tensor(passage.token_ids, device=lm.device)
        scored = [teacher_forced(lm, some, tokens.expand(len(some), -1)) for some in mem.split(ROWS)]
        nats, gaps = (torch.cat(values) for values in zip(*scored, strict=True))
        parts.append(
            pd.DataFrame(
                {
                    "way": way,
                    "passage": passage.id,
                    "share": shares,
                    "t": t[way],
                    "degrees": lengths[way],
                    "right": (gaps > 0).double().mean(1).cpu(),
                    "nats": nats.double().mean(1).cpu(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def bend(
    lm: FrozenLM,
    passages: Sequence[Passage],
    ends: torch.Tensor,
    radius: float,
    *,
    steps: int = 80,
    lr: float = 0.2,
    seed: int = 0,
) -> torch.Tensor:
    """Quadratic Bezier curves between two vectors of each passage, bent so that the passage comes out along them.

    The control point starts in the middle of the straight line and is trained by Adam, with the betas of our recipes
    and a learning rate that falls by a cosine, on the mean cross-entropy at one point of the curve a step. The points
    begin at random and go on by the golden section, which spreads them evenly. Each is put onto the sphere. The
    method is that of mode connectivity (arXiv 1802.10026), there for the weights of networks.

    Args:
        lm: The frozen model.
        passages: n passages of equal length.
        ends: Shape (n, 2, d), on the sphere of root mean square 1.
        radius: S, the root mean square of mem's numbers.
        steps: Of Adam, for all passages together.
        lr: Learning rate of the first step.
        seed: Of the first points.

    Returns:
        Control points as `ways` takes them, shape (n, 3, d).

    Raises:
        CrammingError: If there is no passage or their lengths differ.
    """
    lengths = sorted({len(passage) for passage in passages})
    if len(lengths) != 1:
        raise CrammingError(f"passages have lengths {lengths}: give at least one passage, all of one length")
    tokens = torch.tensor([passage.token_ids for passage in passages], device=lm.device)
    weights = torch.full(tokens.shape, 1 / tokens.shape[1], device=lm.device)
    ends = ends.to(lm.device).float()
    first = torch.rand(len(ends), 1, generator=torch.Generator().manual_seed(seed)).to(lm.device)
    middle = ends.mean(1).clone().requires_grad_(True)
    adam = torch.optim.Adam([middle], lr=lr, betas=(0.9, 0.9))
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        t = (first + step * GOLDEN) % 1
        points = _bezier(torch.stack([ends[:, 0], middle, ends[:, 1]], 1), t)[:, 0]
        loss, _, _ = score(lm, (sphere.onto_sphere(points) * radius)[:, None], tokens, weights)
        (middle.grad,) = torch.autograd.grad(loss, middle)
        adam.step()
    return torch.stack([ends[:, 0], middle.detach(), ends[:, 1]], 1)


def ways_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What comes out along each way between two vectors, summed up.

    Args:
        frame: From `cramming.studies.solutions.walk`.

    Returns:
        Index way; columns passage, degrees (length), middle, worst, mean (share of tokens right at the point next to
        half of the way, at the worst point, over all points), exact (share of points with every token right).
    """
    rows = {}
    for way, some in frame.groupby("way"):
        right = some.sort_values("share")["right"].to_numpy()
        rows[way] = {
            "passage": some["passage"].iloc[0],
            "degrees": some["degrees"].iloc[0],
            "middle": right[len(right) // 2],
            "worst": right.min(),
            "mean": right.mean(),
            "exact": (right == 1).mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")


def _bezier(controls: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Points (n, m, d) of Bezier curves with control points (n, c, d) at t (n, m)."""
    degree = controls.shape[1] - 1
    basis = [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]
    return torch.stack(basis, 2) @ controls


def similarity_table(pairs: pd.DataFrame, width: int) -> pd.DataFrame:
    """Cosine between vectors of one text and of two, and what random directions of that width would have.

    Args:
        pairs: From `cramming.studies.solutions.similarity`.
        width: d.
    """
    rows = {}
    for same, name in ((True, "of one text"), (False, "of two texts")):
        some = pairs.loc[pairs["same"] == same, "cosine"]
        spread, span = words.spread(some.mean(), some.std(), 3), f"{some.min():.3f} to {some.max():.3f}"
        rows[f"{name} (n = {len(some):,})"] = (spread, span)
    rows["random directions, expected"] = (words.spread(0.0, width**-0.5, 3), "")
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["cosine", "range"])
    return frame.rename_axis("two vectors")


def nearest_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How near vectors are to token embeddings, one row a kind of vector.

    Args:
        frames: From `cramming.studies.solutions.nearest_tokens`, by what was compared with what.
    """
    rows = {}
    for name, some in frames.items():
        rows[f"{name} (n = {len(some)})"] = {
            "nearest is token 0": f"{some['first'].mean():.0%}",
            "nearest is in the passage": f"{some['inside'].mean():.0%}",
            "cosine with the nearest": words.spread(some["cosine"].mean(), some["cosine"].std(), 3),
            "cosine with the passage's tokens": words.spread(some["own"].mean(), some["own"].std(), 3),
            "rank of the nearest of these, median": f"{some['rank'].median():,.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is compared")


def ways_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`ways_summary` as a page shows it, one row a kind of way.

    Args:
        frames: From `cramming.studies.solutions.walk`, by kind of way.
    """
    rows = {}
    for name, frame in frames.items():
        each = ways_summary(frame)
        percent = {
            f"right, %: {what}": words.spread(each[column].mean() * 100, each[column].std() * 100, 0)
            for what, column in (("worst point", "worst"), ("half-way", "middle"), ("mean", "mean"))
        }
        rows[f"{name} (n = {len(each)})"] = {
            **percent,
            "points with all right": f"{each['exact'].mean():.0%}",
            "ways right throughout": int((each["worst"] == 1).sum()),
            "length, degrees": words.spread(each["degrees"].mean(), each["degrees"].std(), 0),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")


@styled
def similarity_figure(pairs: pd.DataFrame, by_text: pd.DataFrame, width: int) -> Figure:
    """Cosine between vectors of one text and of two: all pairs, and the means text by text.

    Args:
        pairs: From `cramming.studies.solutions.similarity`.
        by_text: From `cramming.studies.solutions.similarity_by_text`.
        width: d, for what random directions would have.
    """
    figure = plt.figure(figsize=(WIDTH, 7.6))
    # Each panel is as wide as its own labels allow.
    above, below = (part.subplots() for part in figure.subfigures(2, 1, squeeze=False)[:, 0])
    spread = width**-0.5
    edges = np.linspace(min(pairs["cosine"].min(), -3 * spread), max(pairs["cosine"].max(), 3 * spread), 41)
    styles = ((False, COLOURS[2], "stepfilled", "two texts"), (True, COLOURS[0], "step", "one text"))
    for same, colour, kind, name in styles:
        some = pairs.loc[pairs["same"] == same, "cosine"]
        above.hist(some, edges, density=True, histtype=kind, color=colour, edgecolor=colour, linewidth=2,
                   label=f"pairs of {name}")  # fmt: skip
    grid = np.linspace(edges[0], edges[-1], 200)
    bell = np.exp(-((grid / spread) ** 2) / 2) / (spread * np.sqrt(2 * np.pi))
    above.plot(grid, bell, color=COLOURS[1], linestyle="--", label="random directions")
    above.set(xlabel="cosine of two vectors", ylabel="density", ylim=(0, None))
    places = range(len(by_text))
    for column, colour, marker, name in (
        ("between", COLOURS[2], "s", "with other texts'"),
        ("within", COLOURS[0], "o", "with each other"),
    ):
        below.plot(by_text[column], places, marker, color=colour, markeredgecolor="black", markeredgewidth=0.5,
                   markersize=8, label=f"a text's vectors {name}")  # fmt: skip
    below.axvline(0, color="#777777", linewidth=1)
    below.set_yticks(places, [str(text) for text in by_text.index])
    below.set(xlabel="mean cosine", ylim=(len(by_text) - 0.5, -0.5))
    for axis in (above, below):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@styled
def components_figure(
    places: np.ndarray, shares: np.ndarray, random_shares: np.ndarray, texts: Collection[str], part: float = 0.9
) -> Figure:
    """Vectors on their first two principal components, and how many components hold how much of the variance.

    Args:
        places: Coordinates of n vectors, shape (n, c).
        shares: Of the variance, by component, shape (c,).
        random_shares: The same of as many random directions.
        texts: What each vector holds, n names.
        part: Share of the variance to draw a line at.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 8), height_ratios=[1.5, 1])
    names = list(dict.fromkeys(texts))
    second = places[:, 1] if places.shape[1] > 1 else np.zeros(len(places))
    for i, name in enumerate(names):
        some = np.asarray(list(texts), dtype=object) == name
        above.plot(places[some, 0], second[some], "os^DvPX*<>"[i % 10], color=COLOURS[i % 4], alpha=0.8,
                   markeredgecolor="black", markeredgewidth=0.5, markersize=7, label=name)  # fmt: skip
    above.set(xlabel=f"first component, {shares[0]:.1%} of the variance",
              ylabel=f"second component, {shares[1:2].sum():.1%}")  # fmt: skip
    for some, colour, style, label in (
        (shares, COLOURS[0], "-", "the vectors"),
        (random_shares, COLOURS[1], "--", "random directions"),
    ):
        below.plot(range(1, len(some) + 1), np.cumsum(some) * 100, color=colour, linestyle=style, label=label)
    below.axhline(part * 100, color="#777777", linewidth=1)
    below.set(xlabel="components", ylabel="share of the variance, %", ylim=(0, 104))
    below.legend(loc="lower right")
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def ways_figure(frames: Mapping[str, pd.DataFrame], without: float) -> Figure:
    """Share of tokens right along ways between two vectors, mean over passages with its standard error.

    Args:
        frames: From `cramming.studies.solutions.walk`, by what to call them.
        without: Share of tokens right with no mem at all.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.4))
    looks = zip(COLOURS, "os^D", ("-", "--", ":", "-."), strict=True)
    for (name, frame), (colour, marker, style) in zip(frames.items(), looks, strict=False):
        each = frame.groupby(["passage", "share"])["right"].mean().groupby("share")
        mean, error = each.mean() * 100, each.sem().fillna(0) * 100
        axis.plot(mean.index, mean, style, color=colour, marker=marker, markersize=5, linewidth=2, label=name)
        axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.axhline(without * 100, color="#777777", linewidth=1, label="the passage with no mem")
    axis.set(xlabel="share of the way, by angle", ylabel="tokens right, %", ylim=(-3, 103))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left")
    return figure


def show_answer(page: Page) -> Answer:
    """Whether the vectors of a text lie in one place."""
    runs, more = page.runs, page.by_text["more"]
    low, high = metrics.bootstrap_ci(more)
    middle = _by_passage(page.lines["to another vector of the text"], "middle")
    exact = "all exact" if runs["exact"].all() else f"{runs['exact'].sum()} of them exact"
    return Answer(
        page.setting,
        "Do the vectors that hold one text lie in one place?",
        f"They lie apart, with a mean cosine of **{words.mean(page.by_text['within'], 2)}** to each other, "
        f"{words.interval(more.mean(), low, high, 2)} against vectors of other texts, and half-way along the straight "
        f"line between two of them {words.share_mean(middle)} of the tokens are right, {page.without:.0%} with no "
        "vector at all.",
        rests=f"95 % bootstrap intervals over {words.counted(runs)} passages of {runs['length'].max()} tokens; "
        f"{runs['seed'].nunique()} seeds, {len(runs)} runs, {exact}, {words.budgets(runs)} at most",
        sure="contradicted" if low > 0 else "open",
        why="the paper finds vectors of one text hardly more alike, but of longer passages and not held on a sphere, "
        "and which of these makes the difference was not tested",
    )


def _by_passage(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column of `ways_summary`, mean over the ways of each passage."""
    return ways_summary(frame).groupby("passage")[column].mean()


def _points_more(more: pd.Series, less: pd.Series) -> str:
    """Mean difference of two shares by passage, in points of a percentage, with its 95 % interval."""
    gain = (more - less) * 100
    return words.interval(gain.mean(), *metrics.bootstrap_ci(gain), 0)


def show_similarity(page: Page) -> Exhibit:
    """How alike the vectors of one text are, and a test of that by text."""
    width, more = page.lm.width, page.by_text["more"]
    caption = (
        f"**A text's vectors have a cosine {words.interval(more.mean(), *metrics.bootstrap_ci(more), 2)} higher with "
        "each other than with other texts'.** Above: all pairs. Below: means of a text. Pairs share vectors, so the "
        f"interval is by text (n = {len(more)}); texts dealt to the vectors at random do as well with p = "
        f"{similarity_by_chance(page.pairs):.1g}. Table: mean ± standard deviation over pairs."
    )
    figure = similarity_figure(page.pairs, page.by_text, width)
    return Exhibit(caption, figure, similarity_table(page.pairs, width))


def show_start(page: Page) -> Exhibit:
    """What of the likeness comes from the noise that runs start from, and from the first token."""
    first = torch.tensor([passage.token_ids[0] for passage in page.passages], device=page.lm.device)
    tokens = page.lm.model.get_input_embeddings()(first).cpu()
    rest = similarity_by_text(similarity(sphere.along_sphere(page.directions, tokens), page.texts))
    start = from_start(page.lm, page.runs, page.directions, page.passages)
    return Exhibit(
        f"**A part of each vector is the noise that its run started from: their cosine is {start.mean():.2f} ± "
        f"{start.std():.2f} (n = {len(start)}).** That noise is independent, so it only sets vectors apart. With the "
        "direction of the passage's first token taken off, the mean cosine within a text is "
        f"{words.mean(rest['within'], 2)}, against {words.mean(page.by_text['within'], 2)} before."
    )


def show_components(page: Page) -> Exhibit:
    """How many dimensions the vectors spread over."""
    n = len(page.directions)
    places, shares = sphere.principal(page.directions)
    _, random_shares = sphere.principal(sphere.random_directions(page.lm, n))
    share, by_luck = variance_between(page.directions, page.texts)
    caption = (
        f"**90 % of the variance takes {sphere.needed(shares)} components, of as many random directions "
        f"{sphere.needed(random_shares)}.** Above: the {n} vectors on their first two principal components. Below: "
        f"what the first components hold; {n} vectors span {n - 1} dimensions at most. Between the means of the texts "
        f"lies {share:.0%} of the variance, {by_luck:.0%} if vectors knew nothing of their text. No intervals: one "
        "draw."
    )
    return Exhibit(caption, components_figure(places, shares, random_shares, page.texts))


def show_nearest(page: Page) -> Exhibit:
    """The token embeddings that vectors are nearest to."""
    lm, texts = page.lm, page.by_text.index
    following = dict(zip(texts, [*texts[1:], texts[0]], strict=True))
    other = [page.passages[page.texts.index(following[text])] for text in page.texts]
    own = nearest_tokens(lm, page.directions, page.passages)
    random = nearest_tokens(lm, sphere.random_directions(lm, len(page.directions)), page.passages)
    table = nearest_table(
        {
            "vectors, their own passage": own,
            "vectors, another passage": nearest_tokens(lm, page.directions, other),
            "random directions": random,
        }
    )
    means, by_luck = (frame.groupby("passage")[["first", "cosine"]].mean() for frame in (own, random))
    caption = (
        f"**The nearest token is the passage's first for {words.share_mean(means['first'])} of the vectors.** Its "
        f"cosine is {words.difference(means['cosine'], by_luck['cosine'], 3)} against that of a random direction's "
        f"nearest. Mean ± standard deviation over vectors, 95 % intervals over {len(means)} passages; rank among "
        f"{lm.vocab_size:,} tokens."
    )
    return Exhibit(caption, table)


def show_lines(page: Page) -> Exhibit:
    """What comes out along straight lines."""
    one, other, _ = (_by_passage(frame, "middle") for frame in page.lines.values())
    short = _by_passage(page.line(page.within, count=3, on_sphere=False), "middle")
    caption = (
        f"**Half-way to another vector of the same text {words.share_mean(one)} of the tokens are right, "
        f"{_points_more(one, other)} points against half-way to one of another text.** Teacher-forced; n = "
        f"{len(page.within)} pairs within, {len(page.between)} across {len(one)} passages; bands: standard error over "
        f"passages. Not put back onto the sphere, the middle has {words.share_mean(short)} right."
    )
    return Exhibit(caption, ways_figure(page.lines, page.without))


def show_curves(page: Page) -> Exhibit:
    """What comes out along the curves, and all ways summed up."""
    straight, curved = (_by_passage(frame, "worst") for frame in page.curves.values())
    names = (
        "straight, one text",
        "straight, two texts, the first",
        "straight, two texts, the second",
        "straight, the curves' pairs",
        "trained curves",
    )
    table = ways_table(dict(zip(names, [*page.lines.values(), *page.curves.values()], strict=True)))
    caption = (
        f"**At their worst point the curves have {_points_more(curved, straight)} points of tokens right against the "
        f"straight lines between the same vectors, and are better in {(curved > straight).sum()} of {len(curved)}.** "
        f"{page.bend_steps} steps of one point each; a cram takes {page.runs['steps'].mean():.0f} ± "
        f"{page.runs['steps'].std():.0f}. Bands: standard error over passages. Table: mean ± standard deviation over "
        f"ways, {page.points} points of each."
    )
    return Exhibit(caption, ways_figure(page.curves, page.without), table)


def glue_numbers(page: Page) -> None:
    """The numbers that other pages quote."""
    mean = page.pairs.groupby("same")["cosine"].mean()
    glue(cosine_within=f"{mean[True]:.2f}", cosine_between=f"{mean[False]:.2f}")
