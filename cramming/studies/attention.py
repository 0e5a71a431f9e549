"""Who looks at mem, layer by layer and token by token, and what is left when a layer cannot see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming.attention import ROWS, attending_layers, first_token_shares, mem_shares
from cramming.decode import teacher_forced
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.results.estimate import SYSTEMS
from cramming.results.published import published
from cramming.results.rows import crammed, device_name
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, DRAWN, styled
from cramming.studies._page import Exhibit
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
        """From `cramming.attention.mem_shares`, by recipe."""
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
        """From `cramming.attention.first_token_shares`, of the passages that our vectors hold."""
        return first_token_shares(self.lm, crammed(self.ours, self.lm))

    @cached_property
    def knocked_out(self) -> pd.DataFrame:
        """From `knock_out`, of the first passages of each source."""
        few = self.ours.groupby("source").head(max(1, self.hidden_passages // self.ours["source"].nunique()))
        passages = [passage.prefix(min(self.hidden_tokens, len(passage))) for passage in crammed(few, self.lm)]
        return knock_out(self.lm, [self.vectors[key] for key in few["key"]], passages)

    @cached_property
    def right(self) -> pd.Series:
        """Tokens still right by what is hidden and layer, %, the mean over passages."""
        return self.knocked_out.groupby(["hidden", "layer"])["right"].mean() * 100

    @cached_property
    def setting(self) -> str:
        """Model, weights, number of mem vectors, machine and number format of our vectors, for captions."""
        return f"{words.setting(self.ours)}; {device_name(self.lm.device)}, {self.ours['dtype'].iloc[0]}"


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


def attention_table(shares: Mapping[str, pd.DataFrame], plain: pd.DataFrame, hub: str) -> pd.DataFrame:
    """Share of attention on mem, by recipe, and on the first token of plain text: here, and published for one model.

    Args:
        shares: From `cramming.attention.mem_shares`, by name of the recipe.
        plain: From `cramming.attention.first_token_shares`.
        hub: Hub id of the published model. Source: arXiv 2607.21231 (attention_mass.csv).
    """
    said = published("attention_mass").set_index("model").loc[hub]
    rows = {}
    for what, name in (("mem", "mem, progressive"), ("bos", "first token of plain text")):
        value, sd = (said[f"{what}_attention_mass_percent_{part}"] for part in ("mean", "std"))
        rows[f"{name}, {hub}"] = words.spread(value, sd), "published"
    here = {f"mem, {SYSTEMS[recipe]}": some for recipe, some in shares.items()} | {"first token of plain text": plain}
    for name, some in here.items():
        each = some.groupby("passage")["share"].mean() * 100
        rows[name] = words.spread(each.mean(), each.std()), f"here, {len(each)} passages"
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["share of attention, %", "where"])
    return frame.rename_axis("what is looked at").sort_index(ascending=False)


@styled
def maps_figure(shares: pd.DataFrame, plain: pd.DataFrame) -> Figure:
    """Mean share of attention by layer and head: to mem, and to the first token of the plain text.

    Args:
        shares: From `cramming.attention.mem_shares`.
        plain: From `cramming.attention.first_token_shares`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 5), sharey=True)
    drawn = {"to mem": shares, "to the first token, no mem": plain}
    grids = {title: some.pivot_table("share", "layer", "head") * 100 for title, some in drawn.items()}
    long = {title: grid.melt(ignore_index=False, value_name="percent").reset_index() for title, grid in grids.items()}
    setattr(figure, DRAWN, {"percent": long})
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        image = axis.imshow(grid, cmap="cividis", vmin=0, vmax=100, aspect="auto", origin="lower")
        axis.set(xlabel="head", title=f"Attention {title}, %", xticks=range(grid.shape[1]))
        axis.grid(visible=False)
    axes[0].set(ylabel="layer")
    figure.colorbar(image, ax=axes, label="share of attention, %", shrink=0.8)
    return figure


@styled
def by_position_figure(shares: pd.DataFrame) -> Figure:
    """Share of attention to mem against the position of the token that looks, for thirds of the network.

    Args:
        shares: From `cramming.attention.mem_shares`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    depth = shares["layer"].max() + 1
    third, lines = np.minimum(shares["layer"] * 3 // depth, 2), {}
    for part, (label, style, colour) in enumerate(
        zip(("first third", "middle third", "last third"), ("-", "--", ":"), COLOURS[:3], strict=True)
    ):
        some = shares[third == part].groupby(["passage", "position"])["share"].mean().groupby("position")
        line = some.mean()[some.size() >= min(3, shares["passage"].nunique())]
        axis.plot(line.index, line * 100, style, color=colour, linewidth=2, label=f"{label} of the layers")
        lines[f"{label} of the layers"] = (line * 100).rename("percent").reset_index()
    setattr(figure, DRAWN, {"percent": lines})
    axis.set(xlabel="position of the token that looks", ylabel="share of attention on mem, %", ylim=(0, 100))
    axis.legend()
    return figure


@styled
def knock_out_figure(frame: pd.DataFrame) -> Figure:
    """Share of tokens still right when mem is hidden in one layer, in all up to it, or in all from it on.

    Args:
        frame: From `knock_out`, of one passage or several.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
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
    axis.legend()
    return figure


def show_table(page: Page) -> Exhibit:
    """How much attention mem gets, by recipe, here and published."""
    share = page.shares.groupby("passage")["share"].mean().mean()
    counted = ", ".join(f"{n} {source}" for source, n in page.ours["source"].value_counts().items())
    caption = (
        f"**Our vectors get {share:.0%} of the attention, a quarter of what is published for this model or less.** "
        f"Here: {page.setting}; *ours*: exact horizons, {counted} passages of {page.ours['length'].min()} to "
        f"{page.ours['length'].max()} tokens; mean ± sample standard deviation over passages. Published: the base "
        "model in its own weights, vectors of the progressive protocol, PG-19. Model, text, recipe and perhaps the "
        "formula differ."
    )
    return Exhibit(caption, attention_table(page.by_recipe, page.plain, PUBLISHED))


def show_maps(page: Page) -> Exhibit:
    """Which layers and heads look at mem, and at the first token of plain text."""
    mem, plain = (some.groupby("layer")["share"].mean() * 100 for some in (page.shares, page.plain))
    caption = (
        f"**Mem is no sink: the later half of the layers looks at it most, up to {mem.max():.0f} % of attention in "
        f"layer {mem.idxmax()}; plain text's first token gets up to {plain.max():.0f} %.** Left: share of attention "
        "that tokens give to mem. Right: share that they give to the first token when the passage stands alone. Over "
        f"layers the two go together with a correlation of {mem.corr(plain):.2f}. Means over passages and positions; "
        f"{page.setting}; n = {len(page.ours)}."
    )
    return Exhibit(caption, maps_figure(page.shares, page.plain))


def show_by_position(page: Page) -> Exhibit:
    """Whether tokens far from mem look at it."""
    position, share = page.shares["position"], page.shares["share"] * 100
    caption = (
        "**Tokens far from mem look at it too.** Share of attention on mem against the position of the token that "
        f"looks, by thirds of the network: {share[position < 8].mean():.0f} % over the first eight tokens, "
        f"{share[position >= 32].mean():.0f} % from the 33rd on. Means over passages, heads and layers, shown where "
        f"three passages or more reach; {page.setting}; n = {len(page.ours)}."
    )
    return Exhibit(caption, by_position_figure(page.shares))


def show_knock_out(page: Page) -> Exhibit:
    """What is still right with mem hidden in some layers."""
    alone = page.right["one"]
    caption = (
        f"**No single layer holds the text: the worst one to lose is layer {alone.idxmin()}, and {alone.min():.0f} % "
        f"of tokens are still right without it; hidden everywhere, {page.right['from', 0]:.0f} % are.** Share of "
        f"tokens right, teacher-forced, token 0 left out; grey line: nothing hidden ({page.right['none', -1]:.0f} %). "
        f"Bands: standard error over passages. {page.setting}; n = {page.knocked_out['passage'].nunique()} passages, "
        f"up to {page.hidden_tokens} tokens of each."
    )
    return Exhibit(caption, knock_out_figure(page.knocked_out))


def show_where(page: Page) -> Exhibit:
    """Where the text is read out, in words."""
    right, depth = page.right, len(page.right["one"])
    middle, last = depth // 2, max(0, depth - 3)
    return Exhibit(
        "The text is read out in many places, and late. With mem hidden in the first half of the layers (0 to "
        f"{middle - 1}), {right['up to', middle - 1]:.0f} % of tokens are still right; hidden in the second half "
        f"(from {middle} on), {right['from', middle]:.0f} %, hardly more than the {right['from', 0]:.0f} % with mem "
        f"hidden everywhere. The last layers look at it and do not need it: hidden from layer {last} on, "
        f"{right['from', last]:.0f} % remain. Losing any one layer costs something, since the vector was found with "
        "all of them in place."
    )
