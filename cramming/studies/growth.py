"""Growing a prefix one token at a time: what each token costs, which one stops it, and where the vector goes."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
from cramming.metrics import bootstrap_ci
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.sphere import along_sphere, needed, onto_sphere, principal
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, SOURCE_MARKS, marks_by_source, styled


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
        how = Recipe.model_validate_json(run.recipe_json)
        if how.growth is None or (how.growth.start, how.growth.block, how.growth.fraction) != (1, 1, 0):
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
        some = some[some["got"] & (some["position"] > 0)]
        steps, other, place = (some[name].rank().to_numpy() for name in ("steps", against, "position"))
        both = (math.nan, math.nan)
        if len(some) > 2:
            both = _r(steps, other), _r(_rest(steps, place), _rest(other, place))
        rows.append((recipe, source, passage, len(some), *both))
    return pd.DataFrame(rows, columns=["recipe", "source", "passage", "n", "rho", "rho_within"])


def mean_interval(values: pd.Series) -> dict[str, float]:
    """n, mean, low and high (95 % bootstrap interval over runs) of the numbers that are there; nan without any."""
    some = values.dropna()
    if some.empty:
        return {"n": 0, "mean": math.nan, "low": math.nan, "high": math.nan}
    low, high = bootstrap_ci(some)
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
        One row a run that was still at a token when it ended: recipe, source, passage, length (exact tokens), ended,
        token (its text), nats and rank (without mem), harder (share of the prefix's tokens that surprise less), steps
        and share (spent on it, in vain), mistakes and lost (see `costs`), nats_with, rank_with and gap (logits; by how
        much it misses with the kept vector, which holds the prefix), hardest (steps of the costliest token got), free
        (share of tokens that were right as soon as they were added).
    """
    rows = []
    for run in results.itertuples():
        mine = tokens[(tokens["passage"] == run.passage) & (tokens["recipe"] == run.recipe)]
        got, last = mine[mine["got"] & (mine["position"] > 0)], mine[~mine["got"]]
        if last.empty or got.empty:
            continue
        last = last.iloc[0]
        ids = torch.tensor([list(map(int, run.token_ids[: run.length + 1]))], device=lm.device)
        embeds = vectors[run.key][None].to(lm.device, lm.dtype)
        inputs = torch.cat([embeds, lm.model.get_input_embeddings()(ids[:, :-1])], dim=1)
        logits = lm.model(inputs_embeds=inputs, use_cache=False).logits[:, -1:].float()
        nats, gap = nats_and_gaps(logits, ids[:, -1:])
        rows.append(
            {
                "recipe": run.recipe,
                "source": run.source,
                "passage": run.passage,
                "length": run.length,
                "ended": run.ended,
                "token": lm.tokenizer.decode(ids[0, -1:].tolist()),
                **last[["nats", "rank"]],
                "harder": (got["nats"] < last["nats"]).mean(),
                **last[["steps", "share", "mistakes", "lost"]],
                "nats_with": float(nats),
                "rank_with": int(ranks(logits[0], ids[0, -1:])),
                "gap": float(gap),
                "hardest": got["steps"].max(),
                "free": (got["steps"] <= 1).mean(),
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
        with the one before, mean), first and second (share of the variance of these principal components), needed_90
        and needed_99 (components that hold so much of it).
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
                    "first": shares[0],
                    "second": shares[1],
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
    chords = (a - b).norm(dim=1) / a.norm(dim=1)
    return torch.rad2deg(2 * torch.asin((chords / 2).clamp(max=1)))


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
        frames: From `cramming.studies.growth.correlations`, by what the steps are held against.
    """
    rows = {}
    for recipe in next(iter(frames.values()))["recipe"].unique():
        for name, frame in frames.items():
            some = frame[frame["recipe"] == recipe]
            row = {"runs": len(some), "tokens a run": f"{some['n'].mean():.0f}"}
            for column, label in (("rho", "Spearman"), ("rho_within", "position taken out")):
                known = some[column].dropna()
                row[label] = words.interval(known.mean(), *metrics.bootstrap_ci(known), 2) if len(known) else ""
            rows[recipe, name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["recipe", "steps against"])


def stops_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.studies.growth.stops` as a page shows it, one row a run."""
    return pd.DataFrame(
        {
            "recipe": frame["recipe"],
            "exact tokens": frame["length"],
            "next token": [repr(token) for token in frame["token"]],
            "bits without mem": frame["nats"].map(metrics.nats_to_bits).map("{:.1f}".format),
            "rank without mem": frame["rank"].map("{:,.0f}".format),
            "tokens that surprise less": frame["harder"].map(words.share),
            "rank with mem": frame["rank_with"].map("{:,}".format),
            "gap with mem, logits": frame["gap"].map("{:.1f}".format),
            "steps in vain": frame["steps"].map("{:,.0f}".format),
            "of all steps": frame["share"].map(words.share),
            "tokens wrong at a step": frame["mistakes"].map("{:.1f}".format),
            "steps with an earlier one wrong": frame["lost"].map(words.share),
        }
    ).set_index(pd.Index(frame["passage"], name="passage"))


def trajectories_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.studies.growth.trajectories` summed up: mean ± sample standard deviation over passages."""
    rows = {}
    for what, some in frame.groupby("what"):
        spread = {
            "way, degrees": ("gone", 0, 1),
            "end from start, degrees": ("net", 0, 1),
            "cosine of successive moves": ("cosine", 2, 1),
            "first component, %": ("first", 0, 100),
            "second component, %": ("second", 0, 100),
            "components for 90 %": ("needed_90", 1, 1),
            "components for 99 %": ("needed_99", 1, 1),
        }
        rows[what] = {"passages": len(some), "points a passage": f"{some['tokens'].mean():.0f}"} | {
            label: words.spread(some[column].mean() * by, some[column].std() * by, digits)
            for label, (column, digits, by) in spread.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


@styled
def costs_figure(tokens: pd.DataFrame) -> Figure:
    """Steps of every token against its surprisal, and the steps spent so far against the tokens got.

    Args:
        tokens: `cramming.studies.growth.costs`, of one recipe.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    got = tokens[tokens["got"] & (tokens["position"] > 0)]
    some = got.assign(bits=got["nats"].map(metrics.nats_to_bits))
    marks_by_source(left, some, "bits", "steps")
    classes = pd.cut(some["bits"], words.SURPRISE, right=False)
    means = some.groupby(classes, observed=True)[["bits", "steps"]].mean()
    left.plot(means["bits"], means["steps"], color=COLOURS[3], linewidth=2.4, label="mean of a class")
    left.set(yscale="log", xlabel="surprisal without mem, bits", ylabel="steps (log scale)")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    left.legend(fontsize="small")
    for source, (colour, _) in SOURCE_MARKS.items():
        style = {"novels": "-", "fresh": "--"}.get(source, ":")
        for i, (_, run) in enumerate(tokens[tokens["source"] == source].groupby("passage")):
            had = run[run["got"]]
            right.plot(had["position"] + 1, had["steps"].cumsum(), style, color=colour, linewidth=1.2, alpha=0.8,
                       label=source if i == 0 else None)  # fmt: skip
    right.set(xlabel="exact tokens", ylabel="steps so far", xlim=(0, None), ylim=(0, None))
    right.legend(fontsize="small")
    return figure


@styled
def trajectories_figure(frame: pd.DataFrame, path: np.ndarray, walk: np.ndarray) -> Figure:
    """One way of the vector on its first two principal components, and the variance that components hold.

    Args:
        frame: `cramming.studies.growth.trajectories`.
        path: Coordinates of a vector's way, shape (n, c), from `cramming.sphere.principal`.
        walk: The same of a random walk like it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for points, colour, style, label in (
        (path, COLOURS[0], "-", "growth"),
        (walk, COLOURS[1], "--", "random walk"),
    ):
        left.plot(*points[:, :2].T, style, color=colour, linewidth=1.2, label=label)
        left.plot(*points[:, :2].T, ".", color=colour, markersize=5)
        left.plot(*points[:1, :2].T, "o", color="white", markeredgecolor=colour, markersize=9)
        left.plot(*points[-1:, :2].T, "s", color=colour, markersize=8)
    left.set(xlabel="first component", ylabel="second component")
    left.legend(fontsize="small")
    looks = {"growth": (COLOURS[0], "o"), "random walk": (COLOURS[1], "^")}
    for what, (colour, marker) in looks.items():
        some = frame[frame["what"] == what]
        right.plot(some["tokens"], (some["first"] + some["second"]) * 100, marker, color=colour, label=what,
                   markeredgecolor="black", markeredgewidth=0.5)  # fmt: skip
    right.set(xlabel="points of the way (tokens)", ylabel="first two components, % of the variance", ylim=(0, 104))
    right.legend(fontsize="small")
    return figure
