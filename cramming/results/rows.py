"""Rows: what a run comes to in the store, and the frames of rows that several studies read."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

from cramming import __version__, metrics
from cramming.decode import Certificate, certify, without_mem
from cramming.engine import Cram
from cramming.errors import CrammingError
from cramming.horizon import Horizon
from cramming.metrics import least_reduction
from cramming.models import FrozenLM
from cramming.results.plans import Experiment, key_of
from cramming.results.traces import thin
from cramming.texts import Passage, from_tokens


def surprise(lm: FrozenLM, passages: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of every token of the plain passages, given the true tokens before it and no mem.

    Token 0 is left out: nothing stands before it, so the model says nothing of it.

    Returns:
        One row a token: source, passage, position (1 is the second token), nats, and least_nats, what has to be taken
        off them for the token to be the argmax; see `cramming.metrics.least_reduction`.
    """
    parts = []
    for passage in passages:
        nats, gaps = without_mem(lm, passage.token_ids)
        parts.append(after_first(passage, nats=nats[1:], least_nats=least_reduction(nats[1:], gaps[1:])))
    return pd.concat(parts, ignore_index=True)


def after_first(passage: Passage, **columns: np.ndarray) -> pd.DataFrame:
    """One row a token of the passage but token 0: source, passage, position, and the columns given, each (L - 1,)."""
    names = {"source": passage.source, "passage": passage.id, "position": range(1, len(passage))}
    return pd.DataFrame({**names, **columns})


def crammed(frame: pd.DataFrame, lm: FrozenLM, *, tokens: int | None = None) -> list[Passage]:
    """What the vectors of runs hold: of each row its passage, cut to its length, or to so many tokens instead."""
    return [
        from_tokens(row.passage, row.source, row.token_ids[: tokens or row.length].tolist(), lm.tokenizer)
        for row in frame.query("length > 0").itertuples()
    ]


def row_of(lm: FrozenLM, experiment: Experiment, result: Cram | Horizon) -> tuple[dict[str, Any], torch.Tensor]:
    """The store's row of a finished run, certified, and its vectors."""
    how = experiment.resolved()
    first = 0 if how.score_first else 1
    if isinstance(result, Horizon):
        run, length, certificate = result.run, result.length, result.certificate
    else:
        run, length = result, result.length
        certificate = certify(lm, run.mem, run.passage.token_ids, given=first, memory=run.memory)
    token_ids = run.passage.token_ids[:length]
    certificate = certificate or Certificate(0, 0, 0, -np.inf, np.zeros(0, bool), np.zeros(0))
    nats_without, gaps_without = without_mem(lm, token_ids) if length else (np.zeros(0), np.zeros(0))
    scored = slice(first, None)
    measured = run.correct[:length][scored]
    row = {
        "key": key_of(lm, experiment, run.passage),
        "kind": experiment.kind,
        "recipe": how.name,
        "recipe_json": how.model_dump_json(),
        "source": run.passage.source,
        "passage": run.passage.id,
        "passage_digest": run.passage.digest,
        "offered": len(run.passage),
        "n_vectors": experiment.n_vectors,
        "seed": experiment.seed,
        "length": length,
        "ended": run.ended,
        "score_first": how.score_first,
        "accuracy": float(measured.mean()) if len(measured) else 0.0,
        "correct_teacher": int(certificate.correct.sum()),
        "correct_greedy": certificate.greedy_correct,
        "exact": length > 0 and certificate.exact,
        "margin": certificate.margin,
        "correct_with": int(measured.sum()),
        "correct_without": int((gaps_without[scored] > 0).sum()),
        "nats_with": float(run.nats[:length][scored].sum()),
        "nats_without": float(nats_without[scored].sum()),
        "token_ids": list(run.passage.token_ids),
        "token_correct": [False] * first + certificate.correct.tolist(),
        "token_nats_with": [np.nan] * first + certificate.nats.tolist(),
        "token_nats_without": nats_without,
        "steps": run.steps,
        "starts": run.starts,
        "token_passes": run.token_passes,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "batch": experiment.batch,
        **circumstances(lm),
        **dict(
            zip(
                ("trace_step", "trace_length", "trace_loss", "trace_accuracy", "trace_token_passes"),
                (list(column) for column in zip(*thin(run.trace), strict=True)),
                strict=True,
            )
        ),
    }
    return row, run.mem


def circumstances(lm: FrozenLM) -> dict[str, str | int]:
    """What a number was measured with, for the columns of its row: model, number format, device, threads, versions."""
    return {
        "model": lm.name,
        "model_digest": lm.digest,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": device_name(lm.device),
        "versions": f"cramming {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def device_name(device: torch.device) -> str:
    """What the numbers were computed on, such as ``cpu x86_64`` or the name of the GPU."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}"


def horizons(results: pd.DataFrame) -> pd.DataFrame:
    """Exact horizons by recipe, model and source: the summary that figures and captions read.

    Columns: recipe, model, width, vocab_size, source, n, mean, sd, low, high (tokens; 95 % bootstrap interval of the
    mean), least, most (tokens), bits_mean, bits_sd (information gain over tokens 1 on, bits), bits_per_token,
    token_gain_mean, token_gain_sd (tokens), token_passes_per_token, cpu_seconds_per_token (per exact token).
    """
    rows = []
    for (recipe, model, source), some in gains(results).groupby(["recipe", "model", "source"], sort=False):
        bits, gain, exact = some["bits"], some["token_gain"], some["length"].sum()
        rows.append(
            {
                "recipe": recipe,
                "model": model,
                "width": some["width"].iloc[0],
                "vocab_size": some["vocab_size"].iloc[0],
                "source": source,
                **metrics.horizon_summary(some["length"]),
                "least": some["length"].min(),
                "most": some["length"].max(),
                "bits_mean": bits.mean(),
                "bits_sd": bits.std(),
                "bits_per_token": bits.sum() / exact if exact else np.nan,
                "token_gain_mean": gain.mean(),
                "token_gain_sd": gain.std(),
                "token_passes_per_token": some["token_passes"].sum() / exact if exact else np.nan,
                "cpu_seconds_per_token": some["cpu_seconds"].sum() / exact if exact else np.nan,
            }
        )
    return pd.DataFrame(rows)


def gains(results: pd.DataFrame) -> pd.DataFrame:
    """The horizons of the results with what each vector gained.

    Returns:
        The rows of kind horizon and their columns, with token_gain (tokens), bits (information gain over tokens 1 on)
        and bits_capped (the same, where without mem these tokens cost no more than a uniform guess: a model worse than
        that gains bits by being cured of its errors, too). A horizon of 0 or 1 tokens gains no bits.
    """
    runs = of_kind(results, "horizon")
    bits = runs.apply(bits_after_first, axis=1)
    without = [metrics.nats_to_bits(float(np.sum(nats[1:]))) for nats in runs["token_nats_without"]]
    guess = (runs["length"] - 1).clip(lower=0) * np.log2(runs["vocab_size"])
    return runs.assign(
        token_gain=runs["correct_with"] - runs["correct_without"],
        bits=bits,
        bits_capped=bits - (without - guess).clip(lower=0),
    )


def of_kind(results: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of one kind: cram, or horizon.

    Raises:
        CrammingError: If there are none.
    """
    runs = results[results["kind"] == kind]
    if runs.empty:
        raise CrammingError(f"the results hold no run of kind {kind}: sweep a plan that asks for some")
    return runs


def bits_after_first(run: pd.Series) -> float:
    """Information gain of tokens 1 on: without mem nothing stands before token 0, and its cost is a convention."""
    if run["length"] < 2:
        return 0.0
    return metrics.nats_to_bits(
        metrics.information_gain(run["token_nats_without"], run["token_nats_with"], score_first=False)
    )
