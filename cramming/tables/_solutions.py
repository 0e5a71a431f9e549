"""Many vectors for one text: how alike they are, and the ways between them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cramming.tables import _words as words


def similarity_table(pairs: pd.DataFrame, width: int) -> pd.DataFrame:
    """Cosine between vectors of one text and of two, and what random directions of that width would have.

    Args:
        pairs: From `cramming.landscape.similarity`.
        width: d.
    """
    rows = {}
    for same, name in ((True, "of one text"), (False, "of two texts")):
        some = pairs.loc[pairs["same"] == same, "cosine"]
        rows[name] = (
            f"{len(some):,}",
            words.spread(some.mean(), some.std(), 3),
            f"{some.min():.3f} to {some.max():.3f}",
        )
    rows["random directions, expected"] = ("", words.spread(0.0, width**-0.5, 3), "")
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["pairs", "cosine", "range"])
    return frame.rename_axis("two vectors")


def nearest_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How near vectors are to token embeddings, one row a kind of vector.

    Args:
        frames: From `cramming.landscape.nearest_tokens`, by what was compared with what.
    """
    rows = {}
    for name, some in frames.items():
        rows[name] = {
            "vectors": len(some),
            "cosine with the nearest token": words.spread(some["cosine"].mean(), some["cosine"].std(), 3),
            "nearest token is in the passage": f"{some['inside'].mean():.0%}",
            "nearest is token 0": f"{some['first'].mean():.0%}",
            "cosine with the passage's tokens": words.spread(some["own"].mean(), some["own"].std(), 3),
            "rank of the nearest of these, median": f"{some['rank'].median():,.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is compared")


def ways(frame: pd.DataFrame) -> pd.DataFrame:
    """What comes out along each way between two vectors, summed up.

    Args:
        frame: From `cramming.landscape.walk`.

    Returns:
        Index way; columns passage, degrees (length), ends, middle, worst, mean (share of tokens right at the two ends,
        at the point next to half of the way, at the worst point, over all points), exact (share of points with every
        token right).
    """
    rows = {}
    for way, some in frame.groupby("way"):
        right = some.sort_values("share")["right"].to_numpy()
        rows[way] = {
            "passage": some["passage"].iloc[0],
            "degrees": some["degrees"].iloc[0],
            "ends": right[[0, -1]].mean(),
            "middle": right[len(right) // 2],
            "worst": right.min(),
            "mean": right.mean(),
            "exact": (right == 1).mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")


def ways_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`ways` as a page shows it, one row a kind of way.

    Args:
        frames: From `cramming.landscape.walk`, by kind of way.
    """
    rows = {}
    for name, frame in frames.items():
        each = ways(frame)
        percent = {
            f"right, %: {what}": words.spread(each[column].mean() * 100, each[column].std() * 100, 0)
            for what, column in (("ends", "ends"), ("half-way", "middle"), ("worst point", "worst"), ("mean", "mean"))
        }
        rows[name] = {
            "ways": len(each),
            "length, degrees": words.spread(each["degrees"].mean(), each["degrees"].std(), 0),
            **percent,
            "points with all right": f"{each['exact'].mean():.0%}",
            "ways with all right throughout": int((each["worst"] == 1).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")
