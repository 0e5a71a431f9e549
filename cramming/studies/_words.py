"""What tables and captions of several pages say alike: numbers with their spread, settings, costs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.recipes import Recipe
from cramming.results.rows import horizons
from cramming.studies._figures import source_marks

SURPRISE = (-np.inf, 1, 3, 6, 10, np.inf)  # bits; rounding may put a certain token below 0


def horizon_table(results: pd.DataFrame) -> pd.DataFrame:
    """`horizons` as a page shows it: one row a model and source, spread and unit in every cell or heading."""
    rows = {}
    for row in horizons(results).to_dict("records"):
        bound = metrics.theoretical_capacity(row["width"], row["vocab_size"])
        rows[(row["model"], f"{row['source']} (n = {row['n']})")] = {
            "exact horizon, tokens": spread(row["mean"], row["sd"]),
            "95 % of the mean": f"{row['low']:.1f} to {row['high']:.1f}",
            "range": f"{row['least']} to {row['most']}",
            "information gain, bits": spread(row["bits_mean"], row["bits_sd"], 0),
            "of the 16-bit bound": f"{row['mean'] / bound:.1%}",
            "processor seconds a token": f"{row['cpu_seconds_per_token']:.2f}",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "text"])
    return frame.droplevel("model") if len({model for model, _ in rows}) == 1 else frame


def setting(results: pd.DataFrame) -> str:
    """Model, weights and number of mem vectors, for captions."""
    weights = results[["model", "provenance"]].drop_duplicates().itertuples(index=False)
    vectors = "one mem vector" if (results["n_vectors"] == 1).all() else "mem vectors as stated"
    return "; ".join(f"{row.model} ({row.provenance})" for row in weights) + f", {vectors}"


def setting_line(results: pd.DataFrame) -> str:
    """The line under a page's title: model, weights, number format and machine, texts, versions."""
    machine, versions = _circumstances(results)
    return f"{setting(results)}; {machine}; {', '.join(source_marks(results['source']))}; {versions}"


def _circumstances(results: pd.DataFrame) -> tuple[str, str]:
    """Number format and machine, and versions."""
    device, dtype, versions = (", ".join(sorted(results[name].unique())) for name in ("device", "dtype", "versions"))
    return f"{dtype} on {device}", versions


def counted(results: pd.DataFrame) -> str:
    """Passages by source: ``24 novels, 24 fresh``."""
    passages = results.drop_duplicates(["source", "passage"])["source"].value_counts()
    return ", ".join(f"{passages[source]} {source}" for source in source_marks(passages.index))


def cost(results: pd.DataFrame) -> str:
    """One line for captions: machine, number format, versions and total cost of the runs."""
    hours = results["cpu_seconds"].sum() / 3600
    return f"{'; '.join(_circumstances(results))}; {len(results)} runs, {hours:.1f} processor hours"


def interval(mean: float, low: float, high: float, digits: int = 1) -> str:
    return f"{mean:+,.{digits}f} ({low:+,.{digits}f} to {high:+,.{digits}f})" if mean == mean else ""


def difference(a: pd.Series, b: pd.Series, digits: int = 1) -> str:
    """Mean of one sample less that of another, with its 95 % interval: ``+3.0 (+1.2 to +4.9)``."""
    return interval(*metrics.difference(a, b), digits)


def within(value: float, low: float, high: float, digits: int) -> str:
    """A value with its interval or range: ``1.20 (0.90 to 1.41)``."""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def percent(share: float, low: float, high: float) -> str:
    """A share with its interval, for captions: ``40% (30% to 55%)``."""
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


def bits(mean: float, low: float, high: float) -> str:
    """Bits with their interval, for captions: ``1.20 bits (0.90 to 1.41)``."""
    return f"{mean:.2f} bits ({low:.2f} to {high:.2f})"


def share_mean(shares: pd.Series) -> str:
    return percent(shares.mean(), *metrics.bootstrap_ci(shares)) if len(shares) else ""


def mean(values: pd.Series, digits: int) -> str:
    return within(values.mean(), *metrics.bootstrap_ci(values), digits)


def ratio_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the sum of one over the sum of the other, both (n,), drawn in pairs."""

    def ratio(draws: np.ndarray, axis: int) -> np.ndarray:
        at = draws.astype(int)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(over[at].sum(axis) / under[at].sum(axis))

    return metrics.bootstrap_ci(np.arange(len(over)), ratio)


def share(share: float) -> str:
    return f"{share:.0%}" if share == share else ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value == value else ""


def figures(value: float) -> str:
    """Two significant figures: what rounding does spans many orders of magnitude."""
    return f"{float(f'{value:.1e}'):g}" if value == value else ""


def seconds(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "never"


def spread(mean: float, sd: float, digits: int = 1) -> str:
    return f"{mean:,.{digits}f}" + (f" ± {sd:,.{digits}f}" if sd == sd else "")


def budgets(results: pd.DataFrame) -> str:
    """What ended runs that were never solved, for captions."""
    return "; ".join(sorted({Recipe.model_validate_json(text).budget for text in results["recipe_json"]}))


def spelled(values: pd.Series) -> str:
    """The different values in order, for captions: ``8, 16 and 32``."""
    return listed([f"{value:,}" for value in sorted(set(values))])


def listed(parts: list[str]) -> str:
    """Phrases in a row: ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def ratio(over: float, under: float) -> float:
    """A ratio, infinite where nothing is below it."""
    return float(over / under) if under > 0 else np.inf


def range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
