"""What a cram will come to, told from one forward pass over the plain text, with an interval that keeps its word."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cramming import metrics
from cramming.decode import nats_and_gaps, ranks
from cramming.errors import CrammingError
from cramming.files import inside, read_json
from cramming.models import FrozenLM
from cramming.paths import ESTIMATES
from cramming.recipes import Recipe
from cramming.results.rows import crammed
from cramming.results.traces import exact_curve
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, marks_by_source, styled
from cramming.studies._page import Answer, Exhibit, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage

WINDOW = 64  # tokens that are read, from the first on
FIRST = 24  # tokens whose steps are told
OPENING = 8  # the first tokens have little before them, and a feature of their own
LEVEL = 0.9
MOST_WINDOW = 2**20  # tokens, of a stored estimate
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, math.inf)  # a passage; infinite: the mean alone
FEATURES = {
    "surprisal": "mean surprisal of the true tokens, nats",
    "entropy": "mean entropy of what the model expects, nats",
    "rank": "mean of the log of the true token's rank",
    "highest": "highest surprisal, nats",
    "opening": f"mean surprisal up to token {OPENING}, nats",
}
TARGETS = ("horizon", "steps")
MEAN, SURPRISAL, ALL, OWN = (
    "the mean of the others",
    "mean surprisal",
    f"all {len(FEATURES)} features",
    "the mean of its own source",
)


class Page(AnyPage):
    """Crams of one recipe, and what is forecast of each from the others.

    Args:
        scale: Name of the plan, or its path.
        window: Tokens of each passage that are read; less where a passage has less.
        first: The steps are those until so many tokens were exact; less where a horizon is shorter.
        level: Nominal coverage of the intervals.
    """

    def __init__(self, scale: str, window: int, first: int, level: float) -> None:
        super().__init__("predict", scale)
        self.crams = self.results.query("length >= 1")
        self.window, self.level = min(window, int(self.crams["offered"].min())), level
        self.first = min(first, int(self.crams["length"].min()))
        self.labels = {"horizon": "exact horizon, tokens", "steps": f"steps to the first {self.first} tokens"}

    @cached_property
    def known(self) -> pd.DataFrame:
        """From `samples`, of all crams."""
        return samples(self.lm, self.crams, window=self.window, first=self.first)

    @cached_property
    def frames(self) -> dict[str, dict[str, pd.DataFrame]]:
        """From `left_out`, one passage left out, by target and by what it is forecast from."""
        ways: dict[str, dict[str, Any]] = {
            MEAN: {"columns": []},
            SURPRISAL: {"columns": ["surprisal"]},
            ALL: {},
            OWN: {"columns": [], "within": True},
        }
        return {
            target: {name: left_out(self.known, target, level=self.level, **how) for name, how in ways.items()}
            for target in TARGETS
        }

    @cached_property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """From `forecast_summary`, by target."""
        return {target: forecast_summary(some) for target, some in self.frames.items()}

    @cached_property
    def own_over_features(self) -> str:
        """What the mean of a passage's own source gains on all features in forecasts of the horizon, in tokens."""
        return _gain(forecast_summary({way: self.frames["horizon"][way] for way in (ALL, OWN)}).loc[OWN])


@torch.no_grad()
def features(lm: FrozenLM, passages: Sequence[Passage], window: int = WINDOW) -> pd.DataFrame:
    """What one forward pass without mem says of the first tokens of each passage; token 0 is left out.

    Args:
        lm: The frozen model.
        passages: Each of at least `window` tokens.
        window: How many of its tokens are read.

    Returns:
        One row a passage: source, passage, and the columns of `FEATURES`.

    Raises:
        CrammingError: If window is below 2, or a passage is shorter.
    """
    if window < 2:
        raise CrammingError(f"window is {window}: token 0 is not scored, so read 2 tokens or more")
    rows = []
    for passage in passages:
        if len(passage) < window:
            raise CrammingError(
                f"{passage.id} has {len(passage)} tokens, and the estimate reads the first {window}: give a longer one"
            )
        tokens = torch.tensor([passage.token_ids[:window]], device=lm.device)
        logits = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        nats = nats_and_gaps(logits, tokens[:, 1:])[0][0]
        logs = logits[0].log_softmax(1)
        values = (
            nats.mean(),
            -(logs.exp() * logs).sum(1).mean(),
            ranks(logs, tokens[0, 1:]).float().log().mean(),
            nats.max(),
            nats[:OPENING].mean(),
        )
        rows.append((passage.source, passage.id, *map(float, values)))
    return pd.DataFrame(rows, columns=["source", "passage", *FEATURES])


def samples(lm: FrozenLM, results: pd.DataFrame, *, window: int = WINDOW, first: int = FIRST) -> pd.DataFrame:
    """What is to be predicted, and what from: passages whose horizon is known.

    Args:
        lm: The frozen model.
        results: Rows of kind horizon, all of one recipe, one a passage.
        window: Tokens of each passage that are read; see `features`.
        first: The steps are those until so many tokens were exact.

    Returns:
        One row a passage: source, passage, the columns of `FEATURES`, horizon (tokens) and steps (nan where the first
        tokens were never all exact).

    Raises:
        CrammingError: If the rows are of several recipes, or as `features` does.
    """
    hows = {Recipe.model_validate_json(text).model_dump_json() for text in results["recipe_json"]}
    if len(hows) > 1:
        raise CrammingError(f"the results are of {len(hows)} recipes, and an estimate holds for one: leave others out")
    offered = [
        Passage(row.passage, row.source, tuple(map(int, row.token_ids)), "", row.passage_digest)
        for row in results.itertuples()
    ]
    steps = []
    for at in range(len(results)):
        spent, exact = exact_curve(results.iloc[[at]], "steps")
        steps.append(float(spent[exact >= first].min()) if (exact >= first).any() else math.nan)
    return features(lm, offered, window).assign(horizon=results["length"].to_numpy(), steps=steps)


def forecast(
    known: pd.DataFrame, new: pd.DataFrame, target: str, columns: Sequence[str] = tuple(FEATURES), level: float = LEVEL
) -> pd.DataFrame:
    """Predict a target, with the interval of the jackknife+ (arXiv 1905.02928).

    The logarithm of the target is fitted by ridge regression on standardised features; the penalty is the one whose
    leave-one-out error over the known passages is least. One fit more is made without each known passage. What each of
    these says of a new passage, moved by its own error on the passage it left out, gives the interval: if the new
    passage is exchangeable with the known ones, it covers the truth with a chance of at least 2 * level - 1, and as a
    rule of about `level`.

    Args:
        known: From `samples`; rows without the target, or with a target of 0, are left out.
        new: Frame with the feature columns, one row a passage.
        target: One of `TARGETS`.
        columns: Features to use.
        level: Nominal coverage.

    Returns:
        One row a new passage, with its index: predicted, low, high, in the unit of the target; low is 0 and high
        infinite where so few passages are known that no finite interval has that level.

    Raises:
        CrammingError: If no passage is known.
    """
    known = known[known[target] > 0]
    if known.empty:
        raise CrammingError(f"no passage has {target} above 0: a forecast needs some to go by")
    x, y = known[list(columns)].to_numpy(float), np.log(known[target].to_numpy(float))
    at, n = new[list(columns)].to_numpy(float), len(known)
    low, high = np.full(len(at), -np.inf), np.full(len(at), np.inf)
    place = math.ceil(round(level * (n + 1), 9))
    if place <= n:
        lows, highs = [], []
        for left in range(n):
            rest = np.arange(n) != left
            model = _Ridge(x[rest], y[rest])
            error = abs(y[left] - model(x[[left]]))
            lows.append(model(at) - error)
            highs.append(model(at) + error)
        low, high = np.sort(lows, axis=0)[n - place], np.sort(highs, axis=0)[place - 1]
    return pd.DataFrame(
        {"predicted": np.exp(_Ridge(x, y)(at)), "low": np.exp(low), "high": np.exp(high)}, index=new.index
    )


def left_out(
    known: pd.DataFrame,
    target: str,
    columns: Sequence[str] = tuple(FEATURES),
    *,
    by: str = "passage",
    within: bool = False,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Forecast every passage from the others: fit, penalty and interval are all made without it.

    Args:
        known: From `samples`.
        target: One of `TARGETS`.
        columns: Features to use; none at all forecasts the mean.
        by: passage: all others are known. source: only those of other sources are.
        within: Whether only passages of the same source are known; one alone in its source is left out.
        level: Nominal coverage.

    Returns:
        One row a passage that has the target: source, passage, truth, predicted, low, high, inside (whether the truth
        is in the interval).
    """
    known = known[known[target] > 0]
    if within:
        known = known[known.groupby("source")["source"].transform("size") > 1]
    parts = []
    for name, some in known.groupby(by, sort=False):
        others = known[known[by] != name]
        if within:
            others = others[others["source"] == some["source"].iloc[0]]
        parts.append(forecast(others, some, target, columns, level))
    frame = known[["source", "passage"]].assign(truth=known[target].astype(float)).join(pd.concat(parts))
    return frame.assign(inside=frame["truth"].between(frame["low"], frame["high"]))


class _Ridge:
    """Ridge regression on standardised features, its penalty chosen by leave-one-out error on what it is given."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.centre, self.scale, self.mean = x.mean(0), x.std(0), float(y.mean())
        self.scale[self.scale < 1e-12] = 1.0
        left, size, right = np.linalg.svd((x - self.centre) / self.scale, full_matrices=False)
        along, least = left.T @ (y - self.mean), math.inf
        self.slopes = np.zeros(x.shape[1])
        for penalty in PENALTIES:
            # The error on a passage left out follows from the fit with it; the mean is fitted anew too.
            kept = size**2 / (size**2 + penalty * len(y))
            leverage = 1 / len(y) + (left**2) @ kept
            errors = (y - self.mean - left @ (kept * along)) / np.maximum(1 - leverage, 1e-9)
            if (press := float((errors**2).sum())) < least:
                least = press
                self.slopes = right.T @ (kept / np.maximum(size, 1e-12) * along)

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.mean + (x - self.centre) / self.scale @ self.slopes


def forecast_summary(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How far forecasts are off, one row a way of making them; the first is what the others are held against.

    Args:
        frames: From `cramming.studies.predict.left_out`, of one target, by what to call them.

    Returns:
        Index way; columns n (passages), error (mean absolute), better, low, high (by how much less than that of the
        first way on the same passages, with its 95 % bootstrap interval), covered, covered_low, covered_high (share of
        truths in their interval, with the same), width (median of the interval's upper over its lower end).
    """
    base, rows = next(iter(frames.values())), {}
    for name, frame in frames.items():
        same = base.loc[frame.index]
        gained = (same["predicted"] - same["truth"]).abs() - (frame["predicted"] - frame["truth"]).abs()
        (low, high), (covered_low, covered_high) = (
            metrics.bootstrap_ci(values) for values in (gained, frame["inside"].astype(float))
        )
        rows[name] = {
            "n": len(frame),
            "error": (frame["predicted"] - frame["truth"]).abs().mean(),
            "better": gained.mean(),
            "low": low,
            "high": high,
            "covered": frame["inside"].mean(),
            "covered_low": covered_low,
            "covered_high": covered_high,
            "width": (frame["high"] / frame["low"].clip(lower=1e-9)).median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("forecast from")


def write(lm: FrozenLM, results: pd.DataFrame, folder: Path = ESTIMATES, **options: int) -> Path:
    """Store what `foretell` needs of a model: the passages known, with their features, as JSON that people can read.

    Args:
        lm: The frozen model.
        results: As for `samples`.
        folder: Where the file goes, named after the model.
        options: window and first, as for `samples`.
    """
    rows = samples(lm, results, **options)
    rows[list(FEATURES)] = rows[list(FEATURES)].round(4)
    about: dict[str, Any] = {
        "model": lm.name,
        "model_digest": lm.digest,
        "recipe": Recipe.model_validate_json(results["recipe_json"].iloc[0]).model_dump(mode="json"),
        "window": options.get("window", WINDOW),
        "first": options.get("first", FIRST),
    }
    lines = ",\n".join(
        f"  {json.dumps(row)}" for row in rows.astype(object).where(rows.notna(), None).to_dict("records")
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{lm.name}.json"
    path.write_text(json.dumps(about, indent=1)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return path


def read(model: str, folder: Path = ESTIMATES) -> dict[str, Any]:
    """What `write` stored of a model, the rows as a frame.

    Raises:
        CrammingError: If nothing is stored of it, or the file is damaged.
    """
    if not inside(model) or not (path := folder / f"{model}.json").is_file():
        have = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "no model yet"
        raise CrammingError(f"no crams of model {model!r} are stored to estimate from: there are some of {have}")
    way_out = "restore it from git, or write it again with cramming.studies.predict.write"
    stored = read_json(path, way_out)
    try:
        rows = pd.DataFrame(stored["rows"], columns=["source", "passage", *FEATURES, *TARGETS])
        numbers = rows[[*FEATURES, *TARGETS]].astype(float)
        known = {name: stored[name] for name in ("model", "model_digest", "window", "first")}
        if not all(isinstance(known[name], str) for name in ("model", "model_digest")):
            raise ValueError("model and model_digest must be text")
        if not all(type(known[name]) is int and 0 < known[name] <= MOST_WINDOW for name in ("window", "first")):
            raise ValueError(f"window and first must be whole numbers up to {MOST_WINDOW}")
        if not len(rows) or not np.isfinite(numbers[list(FEATURES)].to_numpy()).all():
            raise ValueError("rows lack features")
        how = Recipe.model_validate(stored["recipe"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CrammingError(f"{path.name} is not as written ({type(error).__name__}: {reason}): {way_out}") from error
    return {**known, "rows": rows.assign(**numbers), "recipe": how}


def foretell(lm: FrozenLM, passage: Passage, stored: dict[str, Any], level: float = LEVEL) -> pd.DataFrame:
    """Forecast both targets of a passage from what is stored of a model.

    Args:
        lm: The frozen model.
        passage: At least as many tokens as the estimate reads.
        stored: From `read`.
        level: Nominal coverage of the intervals.

    Returns:
        Index target (`TARGETS`); columns predicted, low, high.

    Raises:
        CrammingError: If the model's weights are others than those of the crams, or the passage is too short.
    """
    if lm.digest != stored["model_digest"]:
        raise CrammingError(
            f"the crams to estimate from were made with {stored['model']} {stored['model_digest']}, the model here is "
            f"{lm.digest}: fetch the same weights"
        )
    new = features(lm, [passage], stored["window"])
    parts = [forecast(stored["rows"], new, target, level=level) for target in TARGETS]
    return pd.concat(parts).set_axis(pd.Index(TARGETS, name="target"))


def _gain(row: Any) -> str:
    """Of a row of `forecast_summary`."""
    return words.interval(row.better, row.low, row.high, 2)


def forecast_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`forecast_summary` as a page shows it; a gain is left out where the forecast is that of the first way."""
    return pd.DataFrame(
        [
            {
                "gain on the mean": _gain(row) if row.high > row.low else "",
                "mean error": f"{row.error:,.1f}",
                "truth inside": f"{row.covered * row.n:.0f} of {row.n:.0f}",
                "width": f"{row.width:,.1f}" if row.width < 1e6 else "unbounded",
            }
            for row in summary.itertuples()
        ],
        index=summary.index,
    )


@styled
def forecasts_figure(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """What was forecast for each passage from the others, with its interval, and what came: one panel a target.

    Args:
        frames: From `cramming.studies.predict.left_out`, by what is forecast.
    """
    figure, axes = plt.subplots(len(frames), figsize=(WIDTH, 3.7 * len(frames)), squeeze=False)
    for axis, (label, frame) in zip(axes[:, 0], frames.items(), strict=True):
        low, high = (frame[end].where(np.isfinite(frame[end]) & (frame[end] > 0)) for end in ("low", "high"))
        axis.vlines(frame["predicted"], low, high, color=COLOURS[3], linewidth=0.8, alpha=0.35)
        ends = [frame["predicted"].min(), frame["predicted"].max()]
        axis.plot(ends, ends, color="#777777", linestyle="--", linewidth=1.5, label="as forecast")
        marks_by_source(axis, frame, "predicted", "truth")
        axis.set(xlabel=f"forecast: {label}", ylabel=f"truth: {label}", ylim=(0, None))
        axis.locator_params(axis="x", integer=True)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def show_answer(page: Page) -> Answer:
    """How far one forward pass tells what a cram comes to."""
    mean, full, own = page.summaries["horizon"].loc[[MEAN, ALL, OWN]].itertuples()
    clear = full.low > 0 or full.high < 0
    verdict = "Hardly better" if not clear else "Better" if full.low > 0 else "Worse"
    return Answer(
        page.setting,
        "Does one reading of a text tell how far it will get?",
        f"{verdict} than the plain mean: one forward pass predicts the horizon to within **{full.error:.1f} tokens** "
        f"on average, the mean of the other passages to within {mean.error:.1f}, a gain of {full.better:+.2f} (95 % "
        f"interval {full.low:+.2f} to {full.high:+.2f}{'' if clear else ', which includes 0'}); knowing only the kind "
        f"of text, to within {own.error:.1f}; between the two {page.own_over_features}.",
        rests=f"{words.counted(page.crams)} passages, {words.budgets(page.crams)} each, told one by one from others",
        sure="holds here only" if clear else "open",
        why=f"{'' if clear else 'no gain is shown, with '}one small model, one recipe and one budget",
    )


def show_errors(page: Page) -> Exhibit:
    """How far forecasts are off, by what they are made from."""
    full, own = page.summaries["horizon"].loc[[ALL, OWN]].itertuples()
    caption = (
        f"**All features gain {_gain(full)} tokens on the mean of the others; the mean of its own source, without any "
        f"reading, {_gain(own)}; between the two: {page.own_over_features}.** Gain: in mean absolute error, with 95 % "
        f"interval. *Truth inside*: in its {page.level:.0%} interval. *Width*: its upper over its lower end, median. "
        f"n = {full.n}."
    )
    tables = (forecast_table(some).rename_axis(page.labels[target]) for target, some in page.summaries.items())
    return Exhibit(caption, *tables)


def show_forecasts(page: Page) -> Exhibit:
    """Forecast and truth of each passage."""
    held = page.frames["horizon"][ALL]
    inside = held.groupby("source", sort=False)["inside"].agg(["sum", "size"])
    told = words.listed([f"{row.sum} of {row.size} {row.Index}" for row in inside.itertuples()])
    caption = (
        f"**Horizons go from {held['truth'].min():.0f} to {held['truth'].max():.0f} tokens, their forecasts from "
        f"{held['predicted'].min():.0f} to {held['predicted'].max():.0f}.** All features; one mark a passage, "
        f"predicted from the others; thin lines: its {page.level:.0%} interval; dashed: truth as forecast. Horizons "
        f"inside their interval: {told}."
    )
    return Exhibit(caption, forecasts_figure({page.labels[target]: some[ALL] for target, some in page.frames.items()}))


def show_other_sources(page: Page) -> Exhibit:
    """Each source, forecast from the other ones."""
    sources = page.crams["source"].unique()
    if len(sources) < 2:
        return Exhibit(f"All passages are of {sources[0]}: there is no other source to forecast them from.")
    tables, covered = [], dict[str, Any]()
    for target in TARGETS:
        moved = {
            name: left_out(page.known, target, columns, by="source", level=page.level)
            for name, columns in ((MEAN, []), (ALL, list(FEATURES)))
        }
        by_source = {
            source: forecast_summary({name: frame[frame["source"] == source] for name, frame in moved.items()}).loc[
                ALL
            ]
            for source in sources
        }
        covered |= {f"the {target} of {source}": row for source, row in by_source.items()}
        tables.append(forecast_table(pd.DataFrame(by_source).T.rename_axis(page.labels[target])))
    least = min(covered, key=lambda name: covered[name]["covered"])
    share = words.percent(*covered[least][["covered", "covered_low", "covered_high"]])
    caption = (
        f"**The least share of truths inside their {page.level:.0%} interval is {share}, for {least}.** In brackets: "
        "95 % interval. All features, as above, but all passages of a source are left out together, and the gain is "
        "on the mean of the other sources. No gain: the fit chose that mean itself."
    )
    return Exhibit(caption, *tables)


def show_estimate(page: Page) -> Exhibit:
    """What is forecast of the first passage from what is stored of the model."""
    if not (ESTIMATES / f"{page.lm.name}.json").is_file():
        return Exhibit(f"No estimates are stored for {page.lm.name}.")
    stored = read(page.lm.name)
    [passage] = crammed(page.crams.iloc[:1], page.lm, tokens=stored["window"])
    lines = [
        f"{page.labels[row.Index]}: {row.predicted:.0f} ({row.low:.0f} to {row.high:.0f}), came to "
        f"{page.known[row.Index].iloc[0]:.0f}"
        for row in foretell(page.lm, passage, stored).itertuples()
    ]
    return Exhibit(f"**Estimated for `{passage.id}`, with {LEVEL:.0%} intervals:** " + "; ".join(lines) + ".")


def glue_numbers(page: Page) -> None:
    """Hand what other pages quote to them."""
    mean, full = page.summaries["horizon"].loc[[MEAN, ALL]].itertuples()
    glue(
        predict_error=f"{full.error:.1f}",
        predict_mean_error=f"{mean.error:.1f}",
        predict_covered=f"{full.covered:.0%}",
        n_predict=f"{full.n:.0f}",
    )
