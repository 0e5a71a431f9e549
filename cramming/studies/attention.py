"""Who looks at mem, layer by layer and token by token, and what is left when a layer cannot see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming import metrics
from cramming.decode import teacher_forced
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.results.attention import ROWS, attending_layers, first_token_shares, mem_shares
from cramming.results.estimate import SYSTEMS
from cramming.results.published import published
from cramming.results.rows import crammed
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, DRAWN, WIDTH, styled
from cramming.studies._page import Answer, Exhibit
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage

PUBLISHED = "HuggingFaceTB/SmolLM2-135M"  # the model of the published shares that ours stand beside


class Page(AnyPage):
    """Attention to the vectors of all recipes; from the second exhibit on, to our own.

    Args:
        scale: See `cramming.studies._page.Page`.
        hidden_passages: Passages from whose layers mem is hidden, as many of each source.
        hidden_tokens: Tokens of each of them.
    """

    def __init__(self, scale: str, hidden_passages: int, hidden_tokens: int) -> None:
        super().__init__("attention", scale)
        self.results = self.results.query("length >= 2").sort_values("passage")
        self.shown = [(scale, self.results)]
        self.ours = self.results[self.results["recipe"] == "horizon"]
        self.hidden_passages, self.hidden_tokens = hidden_passages, hidden_tokens

    @cached_property
    def by_recipe(self) -> dict[str, pd.DataFrame]:
        """From `cramming.results.attention.mem_shares`, by recipe."""
        return {
            str(recipe): mem_shares(self.lm, [self.vectors[key] for key in some["key"]], crammed(some, self.lm))
            for recipe, some in self.results.groupby("recipe")
        }

    @cached_property
    def shares(self) -> pd.DataFrame:
        """Those of our own vectors."""
        return self.by_recipe["horizon"]

    @cached_property
    def plain(self) -> pd.DataFrame:
        """From `cramming.results.attention.first_token_shares`, of the passages that our vectors hold."""
        return first_token_shares(self.lm, crammed(self.ours, self.lm))

    @cached_property
    def knocked_out(self) -> pd.DataFrame:
        """From `knock_out`, of the first passages of each source."""
        few = self.ours.groupby("source").head(max(1, self.hidden_passages // self.ours["source"].nunique()))
        passages = [passage.prefix(min(self.hidden_tokens, len(passage))) for passage in crammed(few, self.lm)]
        return knock_out(self.lm, [self.vectors[key] for key in few["key"]], passages)

    @cached_property
    def right(self) -> pd.DataFrame:
        """Tokens still right, %: a row a passage, a column what is hidden and layer."""
        return self.knocked_out.pivot_table("right", "passage", ["hidden", "layer"]) * 100


@torch.no_grad()
def knock_out(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """What is left of crammed passages when tokens cannot see mem in some layers.

    Three ways: in one layer alone, in all layers up to one, in all layers from one on. Token 0 is left out: it is read
    off mem's own position, which still sees itself.

    Args:
        lm: A model with attention.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold, or the first tokens of it; at least two.

    Returns:
        One row a passage, way and layer: passage, hidden (one, up to, from), layer, right (share of tokens,
        teacher-forced), nats (mean cross-entropy). Layer -1 and hidden none is the passage with nothing hidden.

    Raises:
        CrammingError: If the model has no attention, or a passage is a single token.
    """
    stack = attending_layers(lm)
    ways = [("none", -1, range(0))]
    for layer in range(len(stack)):
        hidden = {"one": range(layer, layer + 1), "up to": range(layer + 1), "from": range(layer, len(stack))}
        ways += [(how, layer, where) for how, where in hidden.items()]
    rows = []
    for mem, passage in zip(vectors, passages, strict=True):
        if len(passage) < 2:
            raise CrammingError(f"passage {passage.id} has 1 token, which sees only mem itself: give at least 2")
        tokens = torch.tensor(passage.token_ids, device=lm.device)
        for some in (ways[at : at + ROWS] for at in range(0, len(ways), ROWS)):
            with _hidden(stack, [hidden for _, _, hidden in some], len(mem)):
                nats, gaps = teacher_forced(lm, mem[None].expand(len(some), -1, -1), tokens.expand(len(some), -1))
            right, cost = (gaps[:, 1:] > 0).float().mean(1).tolist(), nats[:, 1:].mean(1).tolist()
            rows += [(passage.id, how, layer, *each) for (how, layer, _), *each in zip(some, right, cost, strict=True)]
    return pd.DataFrame(rows, columns=["passage", "hidden", "layer", "right", "nats"])


@contextlib.contextmanager
def _hidden(stack: torch.nn.ModuleList, where: Sequence[range], k: int) -> Iterator[None]:
    """While it lasts, tokens of row r cannot see the first k positions in the layers `where[r]`."""

    def hook_of(layer: int):  # type: ignore[no-untyped-def]
        rows = torch.tensor([layer in hidden for hidden in where])

        def hook(module, arguments, options):  # type: ignore[no-untyped-def]
            hidden_states = arguments[0] if arguments else options["hidden_states"]
            n, size = hidden_states.shape[:2]
            sees = torch.ones(size, size, dtype=torch.bool).tril().repeat(n, 1, 1)
            sees[rows, k:, :k] = False
            mask = torch.zeros(sees.shape, dtype=hidden_states.dtype)
            mask = mask.masked_fill(~sees, torch.finfo(hidden_states.dtype).min)
            return arguments, {**options, "attention_mask": mask[:, None].to(hidden_states.device)}

        return hook

    handles = [layer.register_forward_pre_hook(hook_of(i), with_kwargs=True) for i, layer in enumerate(stack)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_passage(shares: pd.DataFrame) -> pd.Series:
    """Mean share of attention of each passage, %."""
    return shares.groupby("passage")["share"].mean() * 100


def attention_table(shares: Mapping[str, pd.DataFrame], plain: pd.DataFrame, hub: str) -> pd.DataFrame:
    """Share of attention on mem, by recipe, and on the first token of plain text: here, and published for one model.

    Args:
        shares: From `cramming.results.attention.mem_shares`, by name of the recipe.
        plain: From `cramming.results.attention.first_token_shares`.
        hub: Hub id of the published model. Source: arXiv 2607.21231 (attention_mass.csv).
    """
    rows = {}
    here = {f"mem, {SYSTEMS[recipe]}": some for recipe, some in shares.items()} | {"first token of plain text": plain}
    for name, some in here.items():
        each = by_passage(some)
        low, high = metrics.bootstrap_ci(each)
        rows[f"{name} (n = {len(each)})"] = words.spread(each.mean(), each.std()), f"{low:.1f} to {high:.1f}"
    said = published("attention_mass").set_index("model").loc[hub]
    for what, name in (("mem", "mem, progressive"), ("bos", "first token of plain text")):
        value, sd = (said[f"{what}_attention_mass_percent_{part}"] for part in ("mean", "std"))
        rows[f"published: {name}"] = words.spread(value, sd), ""
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["share of attention, %", "95 % of the mean"])
    return frame.rename_axis("what is looked at")


def knock_out_table(right: pd.DataFrame) -> pd.DataFrame:
    """What is still right with mem hidden in some layers.

    Args:
        right: `Page.right`.
    """
    depth, worst = right["one"].shape[1], right["one"].mean().idxmin()
    middle, last = depth // 2, max(0, depth - 3)
    rows = {}
    for name, column in (
        ("nowhere", ("none", -1)),
        (f"layer {worst}, the one that costs most", ("one", worst)),
        (f"the last layers, from {last} on", ("from", last)),
        (f"the first half, 0 to {middle - 1}", ("up to", middle - 1)),
        (f"the second half, {middle} to {depth - 1}", ("from", middle)),
        ("everywhere", ("from", 0)),
    ):
        rows[name] = words.mean(right[column], 0)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["tokens still right, % (95 % interval)"])
    return frame.rename_axis("mem hidden in")


@styled
def maps_figure(shares: pd.DataFrame, plain: pd.DataFrame) -> Figure:
    """Mean share of attention by layer and head: to mem, and below to the first token of the plain text.

    Args:
        shares: From `cramming.results.attention.mem_shares`.
        plain: From `cramming.results.attention.first_token_shares`.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True)
    drawn = {"to mem": shares, "to the first token, no mem": plain}
    grids = {title: some.pivot_table("share", "layer", "head") * 100 for title, some in drawn.items()}
    long = {title: grid.melt(ignore_index=False, value_name="percent").reset_index() for title, grid in grids.items()}
    setattr(figure, DRAWN, {"percent": long})
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        image = axis.imshow(grid.T, cmap="cividis", vmin=0, vmax=100, aspect="auto", origin="lower")
        axis.set(ylabel="head", title=f"Attention {title}", yticks=range(0, grid.shape[1], 2))
        axis.grid(visible=False)
    axes[1].set(xlabel="layer")
    figure.colorbar(image, ax=axes, label="share of attention, %", shrink=0.8)
    return figure


@styled
def by_position_figure(shares: pd.DataFrame) -> Figure:
    """Share of attention to mem against the position of the token that looks, for thirds of the network.

    Args:
        shares: From `cramming.results.attention.mem_shares`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.8))
    depth = shares["layer"].max() + 1
    third, lines = shares["layer"] * 3 // depth, {}
    for part, (label, style, colour) in enumerate(
        zip(("first layers", "middle layers", "last layers"), ("-", "--", ":"), COLOURS[:3], strict=True)
    ):
        some = shares[third == part].groupby(["passage", "position"])["share"].mean().groupby("position")
        line = some.mean()[some.size() >= min(3, shares["passage"].nunique())]
        axis.plot(line.index, line * 100, style, color=colour, linewidth=2, label=label)
        lines[label] = (line * 100).rename("percent").reset_index()
    setattr(figure, DRAWN, {"percent": lines})
    axis.set(xlabel="position of the token that looks", ylabel="attention on mem, %", ylim=(0, None))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def knock_out_figure(frame: pd.DataFrame) -> Figure:
    """Share of tokens still right when mem is hidden in one layer, in all up to it, or in all from it on.

    Args:
        frame: From `knock_out`, of one passage or several.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.4))
    for (hidden, label), colour, style, marker in zip(
        {"one": "in this layer alone", "up to": "in all layers up to it", "from": "in all layers from it on"}.items(),
        COLOURS[:3], ("-", "--", ":"), "os^", strict=True,
    ):  # fmt: skip
        lines = frame[frame["hidden"] == hidden].groupby("layer")["right"]
        mean, error = lines.mean() * 100, lines.sem().fillna(0) * 100
        axis.plot(mean.index, mean, style, color=colour, marker=marker, markersize=4, label=f"hidden {label}")
        axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.axhline(frame.loc[frame["hidden"] == "none", "right"].mean() * 100, color="#777777", linewidth=1)
    axis.set(xlabel="layer", ylabel="tokens still right, %", ylim=(-3, 103))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left")
    return figure


def show_answer(page: Page) -> Answer:
    """How much attention mem gets."""
    mem, plain = by_passage(page.shares), by_passage(page.plain)
    said = published("attention_mass").set_index("model").loc[PUBLISHED]
    spread = words.spread(said["mem_attention_mass_percent_mean"], said["mem_attention_mass_percent_std"])
    length = page.ours["length"]
    return Answer(
        page.setting,
        "How much of their attention do tokens give to the vector?",
        f"Tokens give our vectors **{words.spread(mem.mean(), mem.std())} % of their attention**, and the first token "
        f"of the same text without a vector {words.mean(plain - mem, 1)} points more; published for this model, with "
        f"vectors found in another way, are {spread} %.",
        rests=f"Mean ± standard deviation over {words.counted(page.ours)} passages of {words.range(length)} tokens, "
        f"with the 95 % interval of the difference, {words.budgets(page.ours)} each",
        sure="holds here only",
        why="one small model and our recipe; the published share comes without its formula",
    )


def show_table(page: Page) -> Exhibit:
    """How much attention mem gets, by recipe, here and published."""
    mem, others = by_passage(page.shares), page.results.query("recipe != 'horizon'")["length"]
    more = [
        f"{words.difference(by_passage(some), mem)} points ({SYSTEMS[recipe]})"
        for recipe, some in page.by_recipe.items()
        if recipe != "horizon"
    ]
    caption = (
        f"**Beside ours, mem of other recipes gets {words.listed(more)}.** It holds {words.range(others)} tokens, "
        f"ours {words.range(page.ours['length'])}, and near tokens look more. Mean ± standard deviation over "
        "passages; differences with 95 % intervals. Published: base model, own weights, PG-19."
    )
    return Exhibit(caption, attention_table(page.by_recipe, page.plain, PUBLISHED))


def show_maps(page: Page) -> Exhibit:
    """Which layers and heads look at mem, and at the first token of plain text."""
    told = []
    for shares in (page.shares, page.plain):
        late = shares["layer"] * 2 > shares["layer"].max()
        layers = shares.groupby("layer")["share"].mean() * 100
        more = words.mean(by_passage(shares[late]) - by_passage(shares[~late]), 1)
        told.append((more, f"{layers.max():.0f} % (layer {layers.idxmax()})"))
    (mem, most), (plain, most_plain) = told
    caption = (
        f"**The second half of the layers gives mem {mem} points more attention than the first, and plain text's "
        f"first token {plain}.** At most they get {most} and {most_plain}. Above: share given to mem; below: to the "
        f"first token, without mem. Means over positions and n = {len(page.ours)} passages."
    )
    return Exhibit(caption, maps_figure(page.shares, page.plain))


def show_by_position(page: Page) -> Exhibit:
    """Whether tokens far from mem look at it."""
    near, far = (by_passage(page.shares.query(where)) for where in ("position < 8", "position >= 32"))
    there, more = (words.mean(some, 0) if len(some) else "an unknown" for some in (far, (near - far).dropna()))
    caption = (
        f"**From the 33rd token on, tokens give mem {there} % of their attention; the first eight give "
        f"it {more} points more.** Means over heads, layers and passages, one line a "
        f"third of the network, drawn where three passages or more reach; n = {len(page.ours)}, {len(far)} of them "
        "longer than 32 tokens."
    )
    return Exhibit(caption, by_position_figure(page.shares))


def show_knock_out(page: Page) -> Exhibit:
    """What is still right with mem hidden in some layers."""
    right = page.right
    last, everywhere = right["from", right["one"].shape[1] // 2], right["from", 0]
    caption = (
        f"**With mem hidden in the second half of the layers {words.mean(last, 0)} % of tokens are still right, "
        f"hidden everywhere {words.mean(everywhere, 0)} %: a difference of {words.mean(last - everywhere, 0)} "
        "points.** Teacher-forced, token 0 left out; grey: nothing hidden; bands: one standard error; "
        f"n = {len(right)} passages, up to {page.hidden_tokens} tokens of each."
    )
    return Exhibit(caption, knock_out_figure(page.knocked_out), knock_out_table(right))
