"""A page at work: what it opens, once, and how it shows a figure or a table with its caption."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming.models import FrozenLM, load
from cramming.results.plans import load_plan, store_of
from cramming.results.sweep import results
from cramming.studies import _words as words
from cramming.studies._figures import shown


class Page:
    """What all exhibits of a page work on. Runs that the store lacks are computed when the page is opened.

    Attributes:
        scale: Name of the plan, or its path.
        plan: The part of the plan that the page shows.
        store: Where its runs are.
        results: Their rows, see `cramming.results.sweep.results`.
        shown: Of the page's foot: pairs of a plan's name and rows of it.
    """

    def __init__(self, name: str, scale: str) -> None:
        self.scale, self.plan, self.store = scale, load_plan(scale).of(name), store_of(scale)
        # Of several models, each takes the place of the one before.
        self._models: dict[str, FrozenLM] | None = {} if len(self.plan.models) == 1 else None
        self.results: pd.DataFrame = self.more(name)
        self.shown: list[tuple[str, pd.DataFrame]] = [(scale, self.results)]

    def more(self, name: str) -> pd.DataFrame:
        """The rows that another page, or a part of one, shows of the same plan; models stay loaded."""
        return results(self.scale, name, models=self._models)

    @cached_property
    def lm(self) -> FrozenLM:
        """The plan's model, the first of several."""
        [name, *_] = self.plan.models
        return (self._models or {}).get(name) or load(name, dtype=self.plan.dtype)

    @cached_property
    def vectors(self) -> dict[str, torch.Tensor]:
        """The kept vectors by key, each (k, d)."""
        return self.store.vectors()

    @cached_property
    def paths(self) -> dict[str, torch.Tensor]:
        """The vectors kept on the way by key, see `cramming.results.store.Store.paths`."""
        return self.store.paths()

    @cached_property
    def setting(self) -> str:
        """Model, weights and number of mem vectors, for captions."""
        return words.setting(self.results)


class Exhibit:
    """What one cell of a notebook shows: figures or tables, if any, and below them the caption, in Markdown.

    A caption states the finding first, in bold; then what was measured, its unit, model, texts, n and spread.
    """

    def __init__(self, caption: str, *shown: object) -> None:
        self.caption, self.shown = caption, shown

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        for one in self.shown:
            if isinstance(one, Figure):
                data, metadata = shown(one)
                display(data, metadata=metadata, raw=True)
            else:
                display(one)
        display(Markdown(self.caption))


def glue(**numbers: str) -> None:
    """Hand numbers to the pages that quote them, by name."""
    from myst_nb import glue as hand_on

    for name, number in numbers.items():
        hand_on(name, number, display=False)
