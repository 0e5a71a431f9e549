"""The explorer: crammed passages token by token, as numbers in a page that book/_static/explorer.js makes clickable.

Without the script, and on paper, the page shows the same numbers in plain tables.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cramming.decode import teacher_forced, without_mem
from cramming.memories import MEMORIES
from cramming.metrics import nats_to_bits
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.traces import steps_to

CHUNK = 8  # vectors of a path that go through the model together; bounds the logits held at once
NOTHING = "No passage here has a token that its vector gives back, so there is nothing to explore."
GIVEN = "-"  # in place of 0 or 1 where a token was handed to the model
SPACE = "·"  # stands for a blank in tables, where a token that begins with one could not be told from one without


@dataclass(frozen=True)
class Explorer:
    """A fragment of a page. Notebooks show it as HTML; where there is none, they show what it is of."""

    markup: str
    caption: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.caption


def explorer(
    lm: FrozenLM,
    runs: pd.DataFrame,
    *,
    vectors: Mapping[str, torch.Tensor] | None = None,
    paths: Mapping[str, torch.Tensor] | None = None,
    behind: int = 0,
    most: int = 80,
) -> Explorer:
    """What a page needs to let its reader look at the tokens of crammed passages.

    Args:
        lm: The frozen model.
        runs: Rows of the store, one a passage; see `first_of_each`. Those of length 0 are left out.
        vectors: See `measured`.
        paths: See `measured`.
        behind: See `measured`.
        most: See `measured`.
    """
    runs = runs[runs["length"] > 0]
    if runs.empty:
        return Explorer(f'<p class="cramming-explorer">{NOTHING}</p>', NOTHING)
    tokens = measured(lm, runs, vectors=vectors, paths=paths, behind=behind, most=most)
    return Explorer(markup(tokens), f"Explorer of {tokens['passage'].nunique()} passages: the page has it")


def first_of_each(runs: pd.DataFrame, n: int = 2, least: int = 2) -> pd.DataFrame:
    """The first n passages of each source that have at least so many tokens: chosen by name, not by how they came out.

    Args:
        runs: Rows of the store; of several of one passage the first counts.
        n: Passages of a source.
        least: Tokens.
    """
    some = runs[runs["length"] >= least].drop_duplicates("passage").sort_values(["source", "passage"])
    return some.groupby("source", sort=False).head(n)


def measured(
    lm: FrozenLM,
    runs: pd.DataFrame,
    *,
    vectors: Mapping[str, torch.Tensor] | None = None,
    paths: Mapping[str, torch.Tensor] | None = None,
    behind: int = 0,
    most: int = 80,
) -> pd.DataFrame:
    """Surprisal and rightness of every token of crammed passages, given the true tokens before it.

    Args:
        lm: The frozen model. If neither vectors nor paths are given, its tokenizer alone is used, and the numbers are
            those that the store has.
        runs: Rows of the store of length 1 or more.
        vectors: The kept vectors by key; what they say is then computed here, behind what they hold too.
        paths: The vectors kept on the way by key, see `cramming.results.store.Store.paths`. Runs that have some are
            computed with each of them: that is what every shorter prefix had.
        behind: Tokens to show behind the crammed ones; needs vectors or paths.
        most: Tokens of a passage to show at all.

    Returns:
        One row a run, prefix and token: source, passage, crammed (tokens that the vector was for), position, token
        (its text), bits and bits_with (surprisal without mem and with it; nan where the model is asked for none),
        right (whether it is the argmax given mem), step (the first step known to have all tokens up to this one right;
        nan where none is), steps (of the run).
    """
    parts = []
    for run in runs.itertuples():
        how = Recipe.model_validate_json(run.recipe_json)
        first = 0 if run.score_first else 1
        computed = vectors is not None or paths is not None
        n = min(most, run.length + (behind if computed else 0), len(run.token_ids))
        ids = [int(i) for i in run.token_ids[:n]]
        if not computed:
            nats = run.token_nats_without[:n]
            stages = [(run.length, run.token_nats_with[:n], run.token_correct[:n])]
        else:
            nats, _ = without_mem(lm, ids)
            path = (paths or {}).get(run.key)
            if path is None:
                lengths, some = [run.length], (vectors or {})[run.key][None]
            else:
                lengths, some = list(range(1, min(run.length, len(path)) + 1)), path[: run.length]
            truth = torch.tensor([ids], device=lm.device)
            pairs = [
                teacher_forced(lm, few, truth.expand(len(few), -1), MEMORIES[how.memory]) for few in some.split(CHUNK)
            ]
            nats_with, gaps = (torch.cat(part).cpu().numpy() for part in zip(*pairs, strict=True))
            stages = list(zip(lengths, nats_with, gaps > 0, strict=True))
        got, words = np.full(n, np.nan), pieces(lm, ids)
        reached = steps_to(run, runs.loc[[run.Index]])[:n]
        got[: len(reached)] = reached
        for crammed, nats_with, right in stages:
            frame = pd.DataFrame(
                {
                    "source": run.source,
                    "passage": run.passage,
                    "crammed": crammed,
                    "position": range(n),
                    "token": words,
                    "bits": nats_to_bits(pd.Series(nats, dtype=float)),
                    "bits_with": nats_to_bits(pd.Series(nats_with, dtype=float)),
                    "right": np.asarray(right, dtype=bool),
                    "step": got,
                    "steps": run.steps,
                }
            )
            frame.loc[0, "bits"] = np.nan  # nothing stands before it, so the model says nothing of it
            frame.loc[: first - 1, "bits_with"] = np.nan  # given, so neither trained nor scored
            parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def pieces(lm: FrozenLM, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; nothing where it is a part of a character that a later token completes."""
    parts, before = [], ""
    for n in range(1, len(ids) + 1):
        text = str(lm.tokenizer.decode(list(ids[:n]), clean_up_tokenization_spaces=False))
        text = text.rstrip("�") if n < len(ids) else text
        parts.append(text[len(before) :])
        before = text if len(text) > len(before) else before
    return parts


def compact(tokens: pd.DataFrame) -> dict[str, Any]:
    """What the script reads: bits to three significant digits and no finer than a thousandth, rightness as 0 and
    1, or `GIVEN`.

    Args:
        tokens: From `measured`.

    Examples:
        >>> row = {"source": "novels", "passage": "emma-01", "crammed": 1, "token": "She", "right": True}
        >>> compact(pd.DataFrame([row | {"bits": np.nan, "bits_with": 0.01234, "step": 7.0, "steps": 9}]))
        ... # doctest: +NORMALIZE_WHITESPACE
        {'passages': [{'source': 'novels', 'passage': 'emma-01', 'steps': 9, 'tokens': ['She'], 'without': [None],
        'step': [7], 'stages': [{'crammed': 1, 'with': [0.012], 'right': '1'}]}]}
    """
    passages = []
    for (source, passage), some in tokens.groupby(["source", "passage"], sort=False):
        stages = [
            {
                "crammed": int(crammed),
                "with": _numbers(stage["bits_with"]),
                "right": "".join(
                    GIVEN if bits != bits else "01"[right]
                    for bits, right in zip(stage["bits_with"], stage["right"], strict=True)
                ),
            }
            for crammed, stage in some.groupby("crammed")
        ]
        one = some[some["crammed"] == some["crammed"].max()]
        passages.append(
            {
                "source": source,
                "passage": passage,
                "steps": int(one["steps"].iloc[0]),
                "tokens": one["token"].tolist(),
                "without": _numbers(one["bits"]),
                "step": [None if step != step else int(step) for step in one["step"]],
                "stages": stages,
            }
        )
    return {"passages": passages}


def markup(tokens: pd.DataFrame) -> str:
    """The fragment: the numbers as JSON, and a table of each passage, with its longest prefix, the first one open.

    Args:
        tokens: From `measured`.
    """
    # The text of a script ends at the first closing tag, wherever it stands.
    data = json.dumps(compact(tokens), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts: list[str] = []
    for (_, passage), some in tokens.groupby(["source", "passage"], sort=False):
        crammed = some["crammed"].max()
        title = f"{passage}, every token with the vector for {crammed}"
        table = _plain_table(some[some["crammed"] == crammed])
        opened = "" if parts else " open"
        parts.append(f"<details{opened}>\n<summary>{html.escape(title)}</summary>\n{table}\n</details>")
    tables = "\n".join(parts)
    return f'<div class="cramming-explorer">\n<script type="application/json">{data}</script>\n{tables}\n</div>'


def _plain_table(tokens: pd.DataFrame) -> str:
    """One row a token, as HTML."""
    seen = tokens["token"].str.replace(" ", SPACE).str.replace("\n", "⏎")
    frame = pd.DataFrame(
        {
            f"token ({SPACE} is a blank)": seen.to_numpy(),
            "bits without mem": [_text(bits) for bits in _numbers(tokens["bits"])],
            "bits with mem": [_text(bits) for bits in _numbers(tokens["bits_with"])],
            "right": np.where(tokens["bits_with"].isna(), "given", np.where(tokens["right"], "yes", "no")),
            "right by step": [_text(None if step != step else int(step)) for step in tokens["step"]],
        },
        index=(tokens["position"] + 1).to_numpy(),
    )
    return re.sub(r"\n\s*", "", str(frame.to_html(border=0)))  # on one line: half the size, and a short difference


def _numbers(values: pd.Series) -> list[float | None]:
    return [None if value != value else abs(round(float(f"{value:.3g}"), 3)) for value in values]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
