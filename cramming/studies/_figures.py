"""What figures of several pages share: the style, colours and marks of texts, and how a page shows a figure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import signature
from io import StringIO
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Dark, middle and light in this order, so that they stay apart in grey; markers tell them apart a second time.
COLOURS = ("#12436d", "#d1602c", "#8fb8a8", "#3f3f46")
# Texts that are alike share a colour, and no page shows both.
SOURCE_MARKS = {
    "novels": (COLOURS[0], "o"),
    "pg19": (COLOURS[0], "D"),
    "fresh": (COLOURS[1], "s"),
    "fanfics": (COLOURS[1], "v"),
    "random": (COLOURS[2], "^"),
}
OTHER_MARKS = "PX*hp8"  # of texts that nobody has listed above
# Inches of every figure; of two panels, one stands above the other. A telephone shows it 358 pixels wide, and the
# smallest letters of the style 9 pixels high.
WIDTH = 6.0
_SMALLEST = 11.25  # points, as "small" is of the size below
STYLE: dict[Any, Any] = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook"),
    "font.size": 13.5,
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), _SMALLEST),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "grid.color": "#8888884d",
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "cramming",
}


# Attribute of a figure for the frames that it draws, where those it is given are far larger; then for its name, too.
DRAWN = "cramming_drawn"
P = ParamSpec("P")


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the common style, and leave the figure to the caller instead of to pyplot's list of open ones.

    The figure remembers its name and the numbers that it was drawn from, for `shown`.
    """

    @wraps(plot)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = plot(*args, **kwargs)
            figure.canvas.draw()
        plt.close(figure)
        given = getattr(figure, DRAWN, None) or signature(plot).bind(*args, **kwargs).arguments
        setattr(figure, DRAWN, (plot.__name__.removesuffix("_figure"), given))
        return figure

    return wrapper


def shown(figure: Figure) -> tuple[dict[str, str], dict[str, Any]]:
    """A figure as a page shows it: the data and the metadata of a notebook's output.

    The data are its drawing as SVG. The metadata name it and hold the numbers that it was drawn from as CSV, of which
    the book makes files (`cramming.book.execute.pack`).
    """
    name, given = getattr(figure, DRAWN)
    data = {"image/svg+xml": _svg(figure), "text/plain": repr(figure)}
    return data, {"cramming": {"figure": name, "csv": _csv(given)}}


def _svg(figure: Figure) -> str:
    """The figure as SVG, the same each time that it is drawn from the same numbers."""
    text = StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _csv(given: Mapping[str, Any]) -> dict[str, str]:
    """The frames among the arguments of a figure as CSV, by name; columns of arrays and of long texts are left out."""
    found = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and value and all(isinstance(part, pd.DataFrame) for part in value.values()):
            parts = {str(key): part for key, part in value.items()}
            value = pd.concat(parts, names=["series"])
            if value.index.names == ["series", None]:
                value = value.droplevel(1)
        if isinstance(value, pd.DataFrame) and len(value):
            told = [
                column
                for column, cell in value.iloc[0].items()
                if np.ndim(cell) == 0 and not (isinstance(cell, str) and len(cell) > 200)
            ]
            index = value.index.names != [None]
            found[name] = value[told].to_csv(index=index, float_format="%.6g", lineterminator="\n")
    return found


def source_marks(sources: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each source that occurs: known ones first, in their order, and any other one after them."""
    there = dict.fromkeys(sources)
    others = itertools.cycle(OTHER_MARKS)
    known = {name: marks for name, marks in SOURCE_MARKS.items() if name in there}
    return known | {name: (COLOURS[3], next(others)) for name in there if name not in known}


def marks_by_source(axis: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """One mark a row, in the colour and shape of its source, with n in the legend."""
    for source, (colour, marker) in source_marks(frame["source"]).items():
        some = frame[frame["source"] == source]
        axis.plot(some[x], some[y], marker, color=colour, markeredgecolor="black", markeredgewidth=0.5,
                  label=f"{source} (n = {len(some)})")  # fmt: skip


@styled
def horizon_growth_figure(runs: pd.DataFrame) -> Figure:
    """Tokens under optimisation against token passes, one thin line a passage, the mean of each source in bold."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    for source, some in runs.groupby("source"):
        colour, _ = source_marks([str(source)])[str(source)]
        most = max(passes[-1] for passes in some["trace_token_passes"])
        grid = np.linspace(0, most, 200)
        lines = [np.interp(grid, row.trace_token_passes, row.trace_length) for row in some.itertuples()]
        for line in lines:
            axis.plot(grid, line, color=colour, alpha=0.25, linewidth=0.8)
        style = {"novels": "-", "fresh": "--", "random": ":"}.get(str(source), "-.")
        axis.plot(grid, np.mean(lines, axis=0), color=colour, linewidth=2.6, linestyle=style, label=f"{source}, mean")
    axis.set(xlabel="token passes spent on a passage", ylabel="prefix under optimisation, tokens", xlim=(0, None))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.legend()
    return figure
