"""A page at work: what it opens, once, its answer, and how it shows a figure or a table with its caption."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import Literal

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
        """What all numbers of the page were measured with, said once, under its title."""
        return words.setting_line(self.results)


# How sure an answer is: true wherever it was tried and expected elsewhere; shown for this model and recipe alone; not
# decided by these numbers; against what the paper, or another, says.
Sure = Literal["holds", "holds here only", "open", "contradicted"]


class Answer:
    """What a page opens with: the line of setting, and a box with its question, the answer and how sure it is.

    Notebooks show it as HTML, and the book as Markdown, whose words it finds and whose links it follows.

    Args:
        setting: The line under the title, `Page.setting`.
        question: As a reader would ask it.
        answer: One sentence, in Markdown, with its number, unit and spread.
        rests: What it rests on: n, texts, budget.
        sure: How sure.
        why: What makes it so, in half a sentence.
    """

    def __init__(self, setting: str, question: str, answer: str, *, rests: str, sure: Sure, why: str) -> None:
        self.setting, self.question, self.answer = setting, question, answer
        self.rests = f"{rests}. **{sure[0].upper()}{sure[1:]}**: {why}."

    def __repr__(self) -> str:
        return f"{self.question} {self.answer} {self.rests}"

    def _repr_markdown_(self) -> str:
        box = f":::{{admonition}} {self.question}\n:class: answer\n\n{self.answer}\n\n{self.rests}\n:::"
        return f":::{{div}} setting\n{self.setting}\n:::\n\n{box}"

    def _repr_html_(self) -> str:
        from markdown_it import MarkdownIt

        lines = (self.setting, f"**{self.question}**", self.answer, self.rests)
        return MarkdownIt().render("\n\n".join(lines))


class Fold:
    """A long table behind its figure: only its name is seen until a reader opens it."""

    def __init__(self, name: str, table: pd.DataFrame) -> None:
        self.name, self.table = name, table

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return f'<details class="fold"><summary>{escape(self.name)}</summary>{_headed(self.table).to_html()}</details>'


class Exhibit:
    """What one cell of a notebook shows: figures or tables, if any, and below them the caption, in Markdown.

    A caption states the finding first, in bold; then what was measured, its unit, texts, n and spread, in 60 words at
    most. What holds for the whole page is in its line of setting.
    """

    def __init__(self, caption: str, *shown: object) -> None:
        self.caption, self.shown = caption, shown

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        folded = [one for one in self.shown if isinstance(one, Fold)]
        # Every row of a table, and no text in it cut.
        with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
            for one in self.shown:
                if isinstance(one, Figure):
                    data, metadata = shown(one)
                    display(data, metadata=metadata, raw=True)
                elif not isinstance(one, Fold):
                    display(_headed(one) if isinstance(one, pd.DataFrame) else one)
            display(Markdown(self.caption), *folded)


def _headed(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose first column has its name beside those of the others, and not on a line of its own."""
    if max(table.index.nlevels, table.columns.nlevels) > 1:
        return table
    return table.rename_axis(index=None, columns=table.index.name)


def glue(**numbers: str) -> None:
    """Hand numbers to the pages that quote them, by name."""
    from myst_nb import glue as hand_on

    for name, number in numbers.items():
        hand_on(name, number, display=False)
