"""Recipes: everything that decides how a cram runs, as frozen pydantic models that go into the store as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cramming.errors import CrammingError

MOST_JSON = 10_000  # characters of a recipe in a row
MOST_BITS = 8  # a number, where mem is rounded
# What is trained for a text, see `cramming.memories`.
MemoryName = Literal["vectors", "prefix", "proto"]


class Growth(BaseModel):
    """How the prefix grows while it is crammed.

    The prefix under optimisation always reaches past the longest prefix that has been exact so far, by `block` tokens
    or by the share `fraction` of that prefix, whichever is more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int = Field(16, ge=1, description="tokens of the first prefix")
    block: int = Field(8, ge=1, description="least number of tokens ahead of the exact prefix")
    fraction: float = Field(0.0, ge=0, description="tokens ahead as a share of the exact prefix")
    stage_steps: int | None = Field(
        None,
        ge=1,
        description="give up when a prefix is not exact after so many steps (None: only the budget ends it)",
    )


class Recipe(BaseModel):
    """One way of cramming. Fields without a source are ours; the rest name the released code's behaviour.

    Examples:
        >>> recipe("best").radius
        1000.0
        >>> recipe("paper", max_steps=100).max_steps
        100
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    # What is trained; by default the mem vectors.
    memory: MemoryName = Field("vectors", description="see cramming.memories")
    parametrisation: Literal["free", "sphere"] = Field(
        description="free: mem itself is trained; sphere: mem = radius * sqrt(d) * u / |u|, and u is trained"
    )
    radius: float = Field(1.0, gt=0, description="sphere only: root mean square of mem's d numbers")
    init: Literal["embedding_std", "normal"] = Field(
        "normal", description="standard deviation of the noise mem starts from: of the embedding table, or init_std"
    )
    init_std: float = Field(1.0, gt=0)
    bits: int | None = Field(
        None, ge=1, le=MOST_BITS, description="sphere only: mem is rounded to so many bits a number before it is used"
    )
    block: int | None = Field(None, ge=1, description="bits only: numbers that share a scale (None: the whole vector)")
    # The optimiser: Adam, with decoupled weight decay where it is above 0.
    lr: float = Field(gt=0)
    lr_min: float = Field(0.0, ge=0, description="cosine only: where the learning rate ends")
    schedule: Literal["constant", "cosine", "by_length"] = Field(
        "constant",
        description="cosine runs over max_steps, or without them over max_token_passes; "
        "by_length falls with the square root of the prefix",
    )
    full_rate_length: int = Field(24, ge=1, description="by_length only: tokens up to which lr is as given")
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[float, float] = (0.9, 0.9)
    averaging: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the newest iterate in a running average of them; mem is betas[0] of the average and the "
        "rest of the newest, which takes the place of momentum (schedule-free Adam, arXiv 2405.15682). None: momentum",
    )
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0, description="gradient norm of a passage is cut to this")
    # The loss: mean cross-entropy over the scored tokens, in nats.
    score_first: bool = Field(True, description="trap 1: the released code drops the first token's logits")
    focus: float = Field(
        1.0, ge=1, description="weight of a token grows by this factor each step it is wrong, and shrinks back after"
    )
    focus_max: float = Field(20.0, ge=1)
    temperature: float = Field(
        1.0,
        gt=0,
        description="what the logits are divided by in the loss: below 1, tokens that are won weigh less. Stopping "
        "and certificates are at the true logits",
    )
    # Giving up a start that leads nowhere, for noise drawn anew; the best vectors of all starts are kept.
    restart_steps: int | None = Field(
        None, ge=1, description="steps of a start without more right tokens until another begins (None: never)"
    )
    restart_below: int = Field(64, ge=1, description="restart_steps only: a start with so many tokens right goes on")
    # The end.
    max_steps: int | None = Field(None, ge=1)
    max_token_passes: int | None = Field(
        None, ge=1, description="tokens (mem included) through forward and backward, summed over steps"
    )
    patience: int | None = Field(
        None, ge=1, description="steps without a better accuracy until the passage is given up"
    )
    stop_margin: float = Field(
        0.0, ge=0, description="a passage is solved when every scored token wins by more logits than this"
    )
    keep: Literal["measured", "after_step"] = Field(
        "measured", description="trap 5: the released code keeps the vector after the step that followed the best one"
    )
    growth: Growth | None = None

    @field_validator("bits", "block")
    @classmethod
    def _goes_with(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and info.field_name == "bits" and info.data.get("parametrisation") != "sphere":
            raise ValueError("mem is rounded on the sphere only: leave bits out, or set parametrisation to sphere")
        if value and info.field_name == "block" and not info.data.get("bits"):
            raise ValueError("numbers share a scale where mem is rounded: leave block out, or set bits")
        return value

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """A recipe from the JSON that a row holds.

        Raises:
            CrammingError: If it is none, or of a version that knows other fields.
        """
        try:
            if len(json_data) > MOST_JSON:
                raise ValueError(f"it has {len(json_data):,} characters, {MOST_JSON:,} at most are read")
            return super().model_validate_json(json_data, **options)
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            reason = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            field = ".".join(str(part)[:40] for part in reason["loc"]) or "all of it"
            raise CrammingError(
                f"a stored recipe is not one ({field}: {' '.join(str(reason['msg']).split())[:200]}): "
                "restore the store's rows, or update cramming if a newer version wrote them"
            ) from error

    def deciding(self) -> dict[str, object]:
        """The fields that decide a result, for its key.

        The name does not; fields at their defaults are left out, so that a later option with a default that changes
        nothing keeps the keys of old results.
        """
        return self.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)

    @property
    def budget(self) -> str:
        """What ends a run that is never solved, for captions."""
        parts = [
            f"{self.max_steps:,} steps" if self.max_steps else "",
            f"{self.max_token_passes:,} token passes" if self.max_token_passes else "",
            f"{self.patience:,} steps without a better accuracy" if self.patience else "",
        ]
        return " or ".join(part for part in parts if part) or "none"


RECIPES: dict[str, Recipe] = {
    # Paper, section 3 and the released code: AdamW, at most 5000 steps, stop at accuracy 1.0 or after 2000 in vain.
    "paper": Recipe(
        name="paper",
        parametrisation="free",
        init="embedding_std",
        lr=0.01,
        weight_decay=0.01,
        score_first=False,
        max_steps=5000,
        patience=2000,
        keep="after_step",
    ),
    # Progressive cramming as published (arXiv 2607.21231).
    "progressive": Recipe(
        name="progressive",
        parametrisation="free",
        init_std=0.02,
        lr=0.1,
        lr_min=1e-3,
        schedule="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        clip_norm=1.0,
        max_steps=10_000,
        growth=Growth(start=1, block=1, stage_steps=1000),
    ),
    # Ours: the sphere, and weights that follow the tokens still wrong.
    "best": Recipe(
        name="best",
        parametrisation="sphere",
        radius=1000.0,
        lr=0.2,
        lr_min=0.01,
        schedule="cosine",
        focus=1.1,
        max_steps=1000,
        stop_margin=0.05,
    ),
}
# The same in about a quarter fewer steps, for short passages. Results in the store are of `best`.
RECIPES["quick"] = RECIPES["best"].model_copy(
    update={"name": "quick", "lr": 0.3, "betas": (0.8, 0.9), "max_steps": 300}
)
# `best` with a prefix that grows, for horizons. A step may be as long as the tokens that it must not lose allow; the
# running average of steps loses fewer. With the logits of the loss sharpened, tokens already won pull less.
RECIPES["horizon"] = RECIPES["best"].model_copy(
    update={
        "name": "horizon",
        "lr": 0.3,
        "averaging": 0.1,
        "schedule": "by_length",
        "lr_min": 0.0,
        "temperature": 0.25,
        "restart_steps": 100,
        "max_steps": None,
        "max_token_passes": 40_000,
        "growth": Growth(start=8, block=8),
    }
)


def changed_fields(base: Mapping[str, object], how: Mapping[str, object]) -> str:
    """The fields of a recipe that differ from another's, in words: ``growth.block = 16, lr = 0.1``.

    Args:
        base: The fields of the other.
        how: The same fields, of the recipe.
    """
    said = []
    for field, value in base.items():
        now = how[field]
        if isinstance(value, Mapping) and isinstance(now, Mapping):
            said += [f"{field}.{part} = {now[part]}" for part in value if now[part] != value[part]]
        elif now != value:
            said.append(f"{field} = {now}")
    return ", ".join(said)


def in_words(how: Recipe, *, besides: Collection[str] = ()) -> str:
    """Name of a recipe, with the fields that differ from the recipe of that name, those in `besides` left out."""
    base = RECIPES.get(how.name, how)
    changed = changed_fields(base.model_dump(mode="json", exclude={"name", *besides}), how.model_dump(mode="json"))
    return f"{how.name} with {changed}" if changed else how.name


def recipe(name: str, /, **changes: object) -> Recipe:
    """The recipe of that name, with changes.

    Raises:
        CrammingError: If no recipe has that name, or a change names no field or has a value the field refuses.
    """
    if name not in RECIPES:
        raise CrammingError(f"recipe {name!r} is unknown: use one of {', '.join(RECIPES)}")
    try:
        return Recipe.model_validate({**RECIPES[name].model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CrammingError(
            f"recipe {name!r}: {field} = {first['input']!r} is refused ({first['msg']}); "
            f"fields are {', '.join(Recipe.model_fields)}"
        ) from error
