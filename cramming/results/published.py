"""Published numbers, and the ledger: what the papers said, what we got, how far apart the two may be, the verdict."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paths import PAPER
from cramming.recipes import Recipe, in_words, recipe

# Further tables of the later paper, each by what its rows differ in, and why none of ours stands beside them.
LATER = {
    "temperature": ("T = {temperature:g}, loss {loss}, {max_steps:,} steps", "weights and pg19 on the hub"),
    "layers": ("first {kept_first} of {layers} layers", "cut models finetuned by the authors"),
    "width": ("first 4 and last 4 layers", "cut models finetuned by the authors"),
    "low_dim": ("low-dim {dimensions:g}", "trains a projection as well; no recipe here does"),
    "stage_tokens": ("{tokens_a_stage} tokens a stage", "weights and pg19 on the hub"),
}
TABLES = ("capacity", "models", "n_vectors", "progressive", "attention_mass", "growth", *LATER)

# Lengths that the released runs with one mem vector tried on PG-19, in tokens; small models stop earlier.
LENGTH_GRID = (8, 16, 32, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1280, 1568, 2048, 2560, 3072)

# Our models that are kin of a published one, but not the same weights, and what sets them apart.
RELATIVES = {"smollm2-135m": ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M-Instruct from 4-bit weights")}

# What stands beside a published number: others published, from which it follows; runs made alike; runs of other
# weights, texts or recipes; nothing.
ARITHMETIC, MEASURED, RELATED, NOTHING = "by arithmetic", "measured again", "related run", "nothing beside it"

# What the ledger says of a published number. Of a related run it says how large it is, never that a number holds.
WITHIN, OUTSIDE, NEAR, FAR, MISSING = (
    "reproduced within tolerance",
    "contradicted",
    "related run, at least half",
    "related run, too far off to say why",
    "not within reach here",
)


_QUANTITIES = (
    ("decoding_capacity", "tokens", "decoding_capacity_tokens", None),
    ("token_gain", "tokens", "token_gain_mean", "token_gain_std"),
    ("information_gain", "nats", "information_gain_nats_mean", "information_gain_nats_std"),
)


_RUN = ("kind", "recipe_json", "model", "source", "passage", "n_vectors", "trace_loss", *metrics.RUN_COLUMNS)


def published(table: str) -> pd.DataFrame:
    """One of the `TABLES` of published numbers; data/paper/README.md says what they hold and where they come from."""
    if table not in TABLES:
        raise CrammingError(f"no published table {table!r}: choose one of {', '.join(TABLES)}")
    frame = pd.read_csv(PAPER / f"{table}.csv")
    # Some means are printed as whole numbers, and the number of samples is not always given.
    types = {name: "float64" for name in frame.columns if name.endswith(("_mean", "_std"))}
    return frame.astype(types | ({"n_samples": "Int64"} if "n_samples" in frame else {}))


@cache
def _hub_ids() -> dict[str, str]:
    models = published("models")
    ids = dict(zip(models["name"], models["hub_id"], strict=True)) | {i: i for i in models["hub_id"]}
    # The 8B model was renamed on the hub; capacity.csv has the old id.
    ids["meta-llama/Meta-Llama-3.1-8B"] = "meta-llama/Llama-3.1-8B"
    return {name.casefold(): hub_id for name, hub_id in ids.items()}


def hub_id(model: str) -> str:
    """Hub id of one of the paper's 14 models by any of its names; other names come back as they are."""
    return _hub_ids().get(model.casefold(), model)


def text_ratios() -> pd.DataFrame:
    """Published gains of random words over those of PG-19, one row a model that has both.

    Returns:
        Index model; columns tokens and information: ratios.
    """
    capacity = published("capacity").assign(model=lambda frame: frame["model"].map(hub_id))
    by_source = {source: some.set_index("model") for source, some in capacity.groupby("source")}
    ratio = {
        name: by_source["random"][column] / by_source["pg19"][column]
        for name, column in (("tokens", "token_gain_mean"), ("information", "information_gain_nats_mean"))
    }
    return pd.DataFrame(ratio).dropna()


def ledger(results: pd.DataFrame, tolerance: float = 2.0) -> pd.DataFrame:
    """Compare every number of capacity.csv and n_vectors.csv with runs of recipe paper, computed as the paper does.

    A capacity may be one length bin away (`capacity_bounds`), a gain `tolerance` standard errors: published deviation
    over the root of our number of passages, the scatter to expect if ours were drawn like theirs. Passages are
    counted, not runs, because runs of one passage at several lengths are not independent.

    Args:
        results: Runs as the store returns them. Used are crams by the unchanged recipe paper.
        tolerance: Standard errors that a gain may be away.

    Returns:
        Columns model, source, n_vectors, quantity, unit, published, published_sd, ours, ours_n (passages), kind (what
        stands beside it), tolerance, verdict, reason; one row a published number. The rows of n_vectors.csv for one
        vector repeat capacity.csv and are left out.
    """
    results = _prepare(results)
    runs = results[(results["kind"] == "cram") & (results["recipe"] == "paper")]
    # The released notebooks take a run's lowest loss, at whatever step; a stored trace may be thinned and miss it.
    lowest = runs["trace_loss"].map(lambda loss: min(loss, default=math.inf)).astype(float) * (runs["length"] - 1)
    runs = runs.assign(nats_with=np.minimum(runs["nats_with"], lowest))
    several = published("n_vectors").query("n_vectors > 1").assign(source="pg19")
    rows = []
    for said in pd.concat([published("capacity").assign(n_vectors=1), several]).to_dict("records"):
        model, source, k = hub_id(said["model"]), said["source"], said["n_vectors"]
        mine = runs[(runs["model"] == model) & (runs["source"] == source) & (runs["n_vectors"] == k)]
        for quantity, unit, key, sd_key in _QUANTITIES:
            value, sd = said[key], said.get(sd_key, math.nan)
            if math.isnan(value):
                continue  # from 32 vectors on no gain is given
            row = {"model": said["model"], "source": source, "n_vectors": k, "quantity": quantity, "unit": unit}
            row |= {"published": value, "published_sd": sd}
            if mine.empty:
                row |= _missing("weights on the hub" if source == "random" else f"weights and {source} on the hub")
            elif quantity == "decoding_capacity":
                row |= _judge_capacity(value, mine)
            else:
                n = mine[mine["accuracy"] <= metrics.THRESHOLD]["passage"].nunique()
                row |= _judge_mean(value, sd, metrics.published_beyond_capacity(mine)[key], n, tolerance)
            rows.append(row)
    return pd.DataFrame(rows)


def bounds_ledger() -> pd.DataFrame:
    """Compute every number of models.csv anew that follows from others published: bounds, and shares of them.

    Returns:
        The columns of `ledger`; one row a published number. A number agrees if it is the same when rounded alike.
    """
    gains = published("capacity").assign(model=lambda frame: frame["model"].map(hub_id))
    gains = gains.set_index(["model", "source"])["token_gain_mean"]
    rows = []
    for said in published("models").to_dict("records"):
        width, vocabulary = said["hidden_size"], said["vocab_size"]
        here: list[tuple[str, str, str, float, int]] = [
            ("theoretical_capacity_tokens", "any", "tokens", metrics.theoretical_capacity(width, vocabulary), 0)
        ]
        for source in ("pg19", "random"):
            share = metrics.utilisation(gains[said["hub_id"], source], width, vocabulary)
            here.append((f"utilisation_{source}", source, "share", share, 4))
        for column, source, unit, ours, digits in here:
            row = {"model": said["hub_id"], "source": source, "n_vectors": 1, "unit": unit}
            row |= {"quantity": column.removesuffix("_tokens").removesuffix(f"_{source}"), "published": said[column]}
            same = round(ours, digits) == said[column]
            reason = "by arithmetic from width, vocabulary" + (" and token gain" if digits else "")
            row |= {
                "ours": ours,
                "ours_n": 1,
                "kind": ARITHMETIC,
                "tolerance": f"rounded to {digits} decimals",
                "reason": reason,
            }
            if not same:
                row["reason"] += f": {round(ours, digits)}; the file goes with a gain of an earlier release"
            rows.append(row | {"published_sd": math.nan, "verdict": WITHIN if same else OUTSIDE})
        nats = said["text_cross_entropy_nats_512_tokens_pg19"]
        if not math.isnan(nats):
            row = {"model": said["hub_id"], "source": "pg19", "n_vectors": 0, "quantity": "text_cross_entropy"}
            row |= {"unit": "nats of 512 tokens", "published": nats, "published_sd": math.nan}
            rows.append(row | _missing("weights and pg19 on the hub"))
    return pd.DataFrame(rows)


def attention_ledger(mem: pd.DataFrame, plain: pd.DataFrame, model: str) -> pd.DataFrame:
    """Set every number of attention_mass.csv beside the shares of attention measured here.

    Args:
        mem: From `cramming.results.attention.mem_shares`, of vectors by recipe progressive; may be empty.
        plain: From `cramming.results.attention.first_token_shares`, of the same passages; may be empty.
        model: What they were measured on.

    Returns:
        The columns of `ledger`; one row a published number. Ours are of related weights and other texts: near is what
        lies between half and twice the published share.
    """
    kin, what = RELATIVES.get(model, (hub_id(model), ""))
    rows = []
    for said in published("attention_mass").to_dict("records"):
        for quantity, column, frame in (("attention_on_mem", "mem", mem), ("attention_on_first_token", "bos", plain)):
            value, sd = (said[f"{column}_attention_mass_percent_{part}"] for part in ("mean", "std"))
            row = {"model": said["model"], "source": "pg19", "n_vectors": int(column == "mem"), "quantity": quantity}
            row |= {"unit": "%", "published": value, "published_sd": sd}
            if kin != said["model"] or frame.empty:
                rows.append(row | _missing("weights on the hub"))
                continue
            each = frame.groupby("passage")["share"].mean() * 100
            reason = f"our weights are {what or 'the same'}; our texts are not pg19; its formula is not published"
            rows.append(row | _beside(value, float(each.mean()), len(each), reason, most=2.0))
    return pd.DataFrame(rows)


def progressive_ledger(results: pd.DataFrame, tolerance: float = 2.0) -> pd.DataFrame:
    """Compare the horizons and information gains of progressive.csv with our horizon runs.

    Runs of the same weights with recipe progressive, at the published learning rate and on pg19, get a verdict on the
    number. Of others the reason says what differs, and a horizon or gain here is near if it is at least half of the
    published one: a vector that holds more has held as much.

    Args:
        results: Runs as the store returns them. Used are the rows of kind horizon with one mem vector.
        tolerance: Standard errors that a mean may be away, as in `ledger`.

    Returns:
        The columns of `ledger`, with setting for source, and our_model, our_source, our_recipe. A published number has
        one row for each of these three that we ran, or a single row if we ran none.
    """
    results = _prepare(results)
    runs = results[(results["kind"] == "horizon") & (results["n_vectors"] == 1)]
    kin = runs["model"].map(lambda name: RELATIVES.get(name, (name,))[0])
    rows = []
    for said in published("progressive").to_dict("records"):
        projected = "low-dim" in said["setting"]
        mine = runs[(kin == hub_id(said["model"])) & (not projected)]
        theirs = recipe("progressive", lr=said["learning_rate"])
        groups: list[Any] = list(mine.groupby(["model", "source", "recipe"])) or [(("", "", ""), mine)]
        for quantity, unit in (("horizon", "tokens"), ("information_gain", "bits")):
            mean, sd = said[f"{quantity}_{unit}_mean"], said[f"{quantity}_{unit}_std"]
            for names, group in groups:
                row = {"model": said["model"], "setting": said["setting"], "quantity": quantity, "unit": unit}
                row |= {"published": mean, "published_sd": sd}
                if group.empty:
                    why = "trains a projection as well; no recipe here does"
                    row |= _missing(why if projected else "weights and pg19 on the hub")
                else:
                    bits = metrics.nats_to_bits((group["nats_without"] - group["nats_with"]).mean())
                    ours = group["length"].mean() if unit == "tokens" else bits
                    how = Recipe.model_validate_json(group["recipe_json"].iloc[0])
                    n, differs = group["passage"].nunique(), _differences(theirs, names[0], names[1], how)
                    row |= _beside(mean, ours, n, differs) if differs else _judge_mean(mean, sd, ours, n, tolerance)
                rows.append(row | dict(zip(("our_model", "our_source", "our_recipe"), names, strict=True)))
    return pd.DataFrame(rows)


def later_ledger() -> pd.DataFrame:
    """Every number of the further tables of the later paper (`LATER`), beside which nothing of ours stands.

    Returns:
        The columns of `ledger`, with setting for source; one row a published number. Rows of whole models and of the
        vector itself repeat progressive.csv and are left out where they do.
    """
    known = published("progressive")
    seen, rows = set(zip(known["model"], known["horizon_tokens_mean"], strict=True)), []
    for table, (setting, why) in LATER.items():
        for said in published(table).to_dict("records"):
            if (said["model"], said["horizon_tokens_mean"]) in seen:
                continue
            for column in (name for name in said if name.endswith("_mean")):
                quantity, _, unit = column.removesuffix("_mean").rpartition("_")
                row = {"model": said["model"], "setting": setting.format(**said), "quantity": quantity or "steps"}
                row |= {"unit": unit, "published": said[column], "published_sd": said[f"{column[:-5]}_std"]}
                whole = table == "layers" and said["kept_first"] == said["layers"]
                rows.append(row | _missing("weights and pg19 on the hub" if whole else why))
    return pd.DataFrame(rows)


def capacity_bounds(capacity: int) -> tuple[int, int]:
    """Least and greatest capacity within one length bin of a published one, in tokens.

    For a length on the grid, its neighbours. Capacities over random words are drawn lengths, mostly off the grid: for
    those, the width of the bin they fall in, both ways.
    """
    below = max((length for length in LENGTH_GRID if length < capacity), default=0)
    above = min((length for length in LENGTH_GRID if length > capacity), default=capacity)
    return (below, above) if capacity in LENGTH_GRID else (capacity - above + below, capacity + above - below)


def _prepare(results: pd.DataFrame) -> pd.DataFrame:
    """The runs with models under their hub ids, and recipes that were changed marked as such."""
    metrics.require_columns(results, _RUN, "the results")
    return results.reset_index(drop=True).assign(
        model=results["model"].map(hub_id).to_numpy(), recipe=results["recipe_json"].map(_recipe_name).to_numpy()
    )


def _recipe_name(recipe_json: str) -> str:
    """Name of a stored recipe, with the fields that differ from the recipe of that name."""
    return in_words(Recipe.model_validate_json(recipe_json))


def _missing(reason: str) -> dict[str, Any]:
    return {"ours": math.nan, "ours_n": 0, "kind": NOTHING, "tolerance": "", "verdict": MISSING, "reason": reason}


def _judge_mean(mean: float, sd: float, ours: float, n: int, tolerance: float) -> dict[str, Any]:
    if n == 0:
        return _missing(f"every run here has an accuracy above {metrics.THRESHOLD}: none is beyond capacity")
    margin = tolerance * sd / math.sqrt(n)
    verdict, reason = (WITHIN if abs(ours - mean) <= margin else OUTSIDE), f"differs by {ours - mean:+.1f}"
    rule = f"± {margin:.1f} ({tolerance:g} standard errors, n = {n})"
    return {"ours": ours, "ours_n": n, "kind": MEASURED, "tolerance": rule, "verdict": verdict, "reason": reason}


def _judge_capacity(capacity: int, runs: pd.DataFrame) -> dict[str, Any]:
    ours = metrics.decoding_capacity(runs["length"], runs["accuracy"])
    low, high = capacity_bounds(capacity)
    verdict, reason = (WITHIN if low <= ours <= high else OUTSIDE), f"differs by {ours - capacity:+d}"
    # Our capacity could be any length of the grid between the longest that passed and the next that we ran; if we ran
    # none beyond it, failed is nan, and every longer length is untried.
    failed = runs["length"][runs["length"] > ours].min()
    untried = [length for length in LENGTH_GRID if length > ours and not length >= failed]
    if len({low <= length <= high for length in [ours, *untried]}) == 2:
        verdict, reason = MISSING, f"undecided: at least {ours}, but {untried[0]} to {untried[-1]} were not run"
    rule = f"{low} to {high} (one length bin)"
    n = runs["passage"].nunique()
    return {"ours": ours, "ours_n": n, "kind": MEASURED, "tolerance": rule, "verdict": verdict, "reason": reason}


def _beside(published: float, ours: float, n: int, reason: str, most: float = math.inf) -> dict[str, Any]:
    """The verdict on a number that ours stands beside, made otherwise."""
    rule = "at least half" + (", at most twice" if most < math.inf else "")
    said = {"ours": ours, "ours_n": n, "kind": RELATED, "tolerance": rule}
    if 0.5 <= ours / published <= most:
        return said | {"verdict": NEAR, "reason": reason}
    return said | {"verdict": FAR, "reason": f"{reason}; {ours / published:.2f} times as much"}


def _differences(theirs: Recipe, model: str, source: str, ours: Recipe) -> str:
    """In what our runs were made otherwise than those published; empty if in nothing."""
    differences = [f"our weights are {RELATIVES[model][1]}"] if model in RELATIVES else []
    if in_words(ours) != in_words(theirs):
        # What was changed in a recipe says something only beside the same recipe.
        changed = ", changed" if in_words(ours) != ours.name else ""
        short = in_words(ours) if ours.name == theirs.name else ours.name + changed
        differences.append(f"our recipe is {short}, theirs {in_words(theirs)}")
    differences += [f"our texts are {source}"] if source != "pg19" else []
    return "; ".join(differences)
