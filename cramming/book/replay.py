"""The replay: one passage that appears token by token as its vector is trained, from the trace that the store kept.

No weights are needed. Without the script book/_static/replay.js the page shows the passage and how it came about.
"""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np
import pandas as pd

from cramming.book.explorer import Explorer, pieces
from cramming.models import FrozenLM
from cramming.results.traces import steps_to


def replay(lm: FrozenLM, runs: pd.DataFrame) -> Explorer:
    """What a page needs to play the run of one passage.

    Args:
        lm: The frozen model, of which the tokenizer alone is used.
        runs: Rows of kind horizon; the first is played.

    Returns:
        A fragment of a page, see `cramming.book.explorer.Explorer`.
    """
    first = runs.head(1)
    (run,) = first.itertuples()
    data = frames(run, steps_to(run, first), pieces(lm, [int(i) for i in run.token_ids[: run.length]]))
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    said = (
        f"{run.passage}: {run.length} tokens exact after {run.steps:,} steps and {run.token_passes:,} token passes, "
        "from one vector."
    )
    passage = html.escape("".join(data["tokens"]))
    return Explorer(
        f'<div class="cramming-replay">\n<script type="application/json">{text}</script>\n'
        f"<p>{html.escape(said)}</p>\n<details open><summary>The passage</summary><p>{passage}</p></details>\n</div>",
        said,
    )


def frames(run: Any, reached: np.ndarray, tokens: list[str]) -> dict[str, Any]:
    """What the script reads.

    Args:
        run: A row of kind horizon.
        reached: From `steps_to`, shape (length,): the first step that had this token and all before it right.
        tokens: The text of each exact token.

    Returns:
        passage, steps, token_passes (of the run); tokens; at (the step that each came right at); under (pairs of a
        step and the tokens under optimisation from it on).
    """
    lengths = np.asarray(run.trace_length)
    turns = np.flatnonzero(np.diff(lengths, prepend=0))
    return {
        "passage": run.passage,
        "steps": int(run.steps),
        "token_passes": int(run.token_passes),
        "tokens": tokens,
        "at": [int(step) for step in reached],
        "under": [[int(run.trace_step[i]), int(lengths[i])] for i in turns],
    }


def show(lm: FrozenLM, runs: pd.DataFrame) -> None:
    """Show the run that is in the middle of all by its horizon, under a name by which other pages show it too.

    Args:
        lm: The frozen model.
        runs: Rows of kind horizon.
    """
    from IPython.display import display

    middle = runs.sort_values(["length", "passage"]).iloc[[len(runs) // 2]]
    metadata = {"scrapbook": {"name": "replay", "mime_prefix": ""}}
    display(replay(lm, middle), metadata=metadata)  # type: ignore[no-untyped-call]
