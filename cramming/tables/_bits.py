"""How many bits a vector needs, and what a passage takes as a file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.precision import stored_bits
from cramming.recipes import Recipe
from cramming.tables import _words as words


def survival_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What is left of passages after their vectors were changed, one row a way and amount of change.

    Args:
        frame: From `cramming.precision.survival` or `few_bits`.

    Returns:
        Indexed by what and amount: n (passages), cases (more, if noise is drawn several times), stored_bits (of the
        vectors of a passage), degrees (mean angle to the vectors before), exact_mean, exact_sd, exact_sem (tokens),
        share_mean, share_sem (of the tokens of a passage), whole (cases of which every token is left), bits_per_token
        (bits stored over tokens left, sums over passages; infinite if none is left).
    """
    rows = {}
    share = frame["exact"] / frame["length"]
    for key, some in frame.assign(share=share).groupby(["what", "amount"], sort=False):
        rows[key] = {
            "n": some["passage"].nunique(),
            "cases": len(some),
            "stored_bits": some["stored_bits"].mean(),
            "degrees": some["degrees"].mean(),
            "exact_mean": some["exact"].mean(),
            "exact_sd": some["exact"].std(),
            "exact_sem": some["exact"].sem(),
            "share_mean": some["share"].mean(),
            "share_sem": some["share"].sem(),
            "whole": int((some["exact"] == some["length"]).sum()),
            "bits_per_token": words.ratio(some["stored_bits"].sum(), some["exact"].sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "amount"])


def survival_table(summary: pd.DataFrame, first: str = "written as") -> pd.DataFrame:
    """`survival_summary` of what takes a number of bits, as a page shows it; `first` heads the first column."""
    some = summary[summary["stored_bits"].notna()].reset_index()
    rows = {
        (row.what, f"{row.amount:g}"): {
            "bits a vector": f"{row.stored_bits:,.0f}",
            "angle, degrees": f"{row.degrees:.1f}" if row.degrees == row.degrees else "",
            "exact tokens left": words.spread(row.exact_mean, row.exact_sd),
            "passages whole": f"{row.whole} of {row.n}",
            "bits of vector a token left": f"{row.bits_per_token:,.0f}" if np.isfinite(row.bits_per_token) else "",
        }
        for row in some.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis([first, "bits a number"])


def fewest_bits(frame: pd.DataFrame) -> pd.DataFrame:
    """The fewest bits a number at which passages stay exact over their whole length, and at all more that were tried.

    Args:
        frame: From `cramming.precision.survival` or `few_bits`.

    Returns:
        One row a way of rounding and passage: what, source, passage, length, fewest (bits a number; nan if some token
        is lost even at the most), stored_bits (of the vectors of that passage, then).
    """
    rows = []
    some = frame[frame["stored_bits"].notna()].sort_values("amount", ascending=False)
    for (what, source, passage), each in some.groupby(["what", "source", "passage"], sort=False):
        kept = each[(each["exact"] == each["length"]).cummin()]
        fewest, bits = (kept["amount"].iloc[-1], kept["stored_bits"].iloc[-1]) if len(kept) else (np.nan, np.nan)
        rows.append((what, source, passage, each["length"].iloc[0], fewest, bits))
    return pd.DataFrame(rows, columns=["what", "source", "passage", "length", "fewest", "stored_bits"])


def fewest_for_all(frame: pd.DataFrame) -> pd.Series:
    """By way of rounding the fewest bits a number at which all passages stay exact; nan if they do at none tried."""
    return fewest_bits(frame).groupby("what", sort=False)["fewest"].agg(lambda bits: bits.max(skipna=False))


IN_THE_LOOP = "rounded while crammed"


def by_rounding(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of the store with the columns bits (mem was rounded to; nan if it was not) and stop_margin (logits)."""
    hows = [Recipe.model_validate_json(text) for text in results["recipe_json"]]
    bits = np.array([how.bits or np.nan for how in hows])
    return results.assign(bits=bits, stop_margin=[how.stop_margin for how in hows])


def few_bits(runs: pd.DataFrame, afterwards: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rounding in the loop and rounding afterwards side by side.

    Args:
        runs: Rows from `by_rounding`; those rounded with one scale a vector count. Their tokens left are those that
            free decoding gives.
        afterwards: From `cramming.precision.survival` with `rounded`, by what to call the vectors that were rounded.

    Returns:
        The columns of `cramming.precision.survival`, what being the way of rounding and amount the bits a number;
        degrees is nan in the loop, where there is no vector before.
    """
    parts = [
        frame[frame["what"].isin(["float32", "scale a vector"])].assign(what=name)
        for name, frame in afterwards.items()
    ]
    loop = runs[runs["bits"].notna()].sort_values("bits", ascending=False)
    bits = [stored_bits(row.width, int(row.bits), k=row.n_vectors) for row in loop.itertuples()]
    columns = {"what": IN_THE_LOOP, "amount": loop["bits"], "stored_bits": bits, "degrees": np.nan}
    parts.append(loop[["source", "passage", "length"]].assign(**columns, exact=loop["correct_greedy"]))
    return pd.concat(parts, ignore_index=True)


def information_per_token(runs: pd.DataFrame) -> float:
    """Bits that a token of the passages of runs carries without mem, mean over tokens 1 on of all passages."""
    nats = [np.asarray(row.token_nats_without)[1 : row.length] for row in runs.itertuples()]
    return float(metrics.nats_to_bits(np.concatenate(nats).mean()))


def file_sizes(files: pd.DataFrame, together: pd.DataFrame) -> pd.DataFrame:
    """What passages take as files, one row a way of writing them; shares are of sums over passages.

    Args:
        files: From `cramming.coding.files`.
        together: The same of all passages written as one, by those coders that can.

    Returns:
        Index coder, in the order given; columns settings, n (passages), same (how many came back byte for byte), mean,
        sd, least, most (bytes a file), of_text (bytes over those of the text in UTF-8), of_ids (bits over 16 bits a
        token), per_character and per_token (bits), together (bytes of one file for all; of coders that wrote none,
        the sum), together_of_text (the same over the text's), together_same (whether it came back).
    """
    one = together.set_index("coder")
    rows = {}
    for coder, some in files.groupby("coder", sort=False):
        sums, alone = some[["bytes", "utf8", "characters", "tokens"]].sum(), coder not in one.index
        whole = sums if alone else one.loc[coder]
        rows[str(coder)] = {
            "settings": some["settings"].iloc[0],
            "n": len(some),
            "same": int(some["same"].sum()),
            "mean": some["bytes"].mean(),
            "sd": some["bytes"].std(),
            "least": some["bytes"].min(),
            "most": some["bytes"].max(),
            "of_text": sums["bytes"] / sums["utf8"],
            "of_ids": 8 * sums["bytes"] / (16 * sums["tokens"]),
            "per_character": 8 * sums["bytes"] / sums["characters"],
            "per_token": 8 * sums["bytes"] / sums["tokens"],
            "together": whole["bytes"],
            "together_of_text": whole["bytes"] / whole["utf8"],
            "together_same": bool(some["same"].all() if alone else whole["same"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("coder")


def file_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """`file_sizes` as a page shows it."""
    return pd.DataFrame(
        {
            "settings": sizes["settings"],
            "bytes a passage": [words.spread(r.mean, r.sd, 0) for r in sizes.itertuples()],
            "range": [f"{r.least} to {r.most}" for r in sizes.itertuples()],
            "over the text's UTF-8": sizes["of_text"].map("{:.2f}".format),
            "over 16 bits a token": sizes["of_ids"].map("{:.2f}".format),
            "bits a character": sizes["per_character"].map("{:.1f}".format),
            "bits a token": sizes["per_token"].map("{:.1f}".format),
            "came back": [f"{r.same} of {r.n}" for r in sizes.itertuples()],
            "all as one file, bytes": sizes["together"].map("{:,.0f}".format),
            "that over its UTF-8": sizes["together_of_text"].map("{:.2f}".format),
        }
    )


def file_ratio(files: pd.DataFrame, over: str, under: str) -> dict[str, float]:
    """How many times as large the files of one coder are as those of another, passage by passage.

    Args:
        files: From `cramming.coding.files`.
        over: A coder.
        under: Another one.

    Returns:
        n (passages), mean, low and high (95 % bootstrap interval of the mean), least, most.

    Raises:
        CrammingError: If the files lack one of the coders.
    """
    sizes = files.pivot_table("bytes", "passage", "coder")
    for coder in (over, under):
        if coder not in sizes:
            raise CrammingError(f"no file was written by {coder!r}: choose from {', '.join(sizes)}")
    ratio = sizes[over] / sizes[under]
    low, high = metrics.bootstrap_ci(ratio)
    return {"n": len(ratio), "mean": ratio.mean(), "low": low, "high": high, "least": ratio.min(), "most": ratio.max()}
