"""Recipes: values of the published protocols, refusals, and what a recipe's identity rests on."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cramming.errors import CrammingError
from cramming.recipes import RECIPES, Growth, Recipe, recipe


def test_paper_recipe_is_the_released_protocol():
    paper = recipe("paper")
    # The optimiser and the end: train.py of the authors' repository, and section 4 of the paper.
    assert (paper.parametrisation, paper.init, paper.schedule) == ("free", "embedding_std", "constant")
    assert (paper.lr, paper.betas, paper.weight_decay, paper.clip_norm) == (0.01, (0.9, 0.9), 0.01, None)
    assert (paper.max_steps, paper.patience, paper.max_token_passes) == (5000, 2000, None)
    # Its quirks: token 0 is given, every token weighs the same, and the vector is kept one step too late.
    assert (paper.score_first, paper.focus, paper.stop_margin, paper.keep) == (False, 1.0, 0.0, "after_step")
    assert paper.growth is None


def test_progressive_recipe_grows_token_by_token():
    progressive = recipe("progressive")
    assert progressive.growth == Growth(start=1, block=1, stage_steps=1000)
    assert (progressive.lr, progressive.schedule, progressive.warmup_steps) == (0.1, "cosine", 100)


def test_our_recipes_score_token_0_and_keep_what_was_measured():
    for name in ("best", "horizon"):
        ours = recipe(name)
        assert (ours.parametrisation, ours.score_first, ours.keep) == ("sphere", True, "measured")
        assert ours.stop_margin > 0
    # A horizon is the same cram with a prefix that grows, averaged steps, a rate that follows it, a budget in tokens.
    differs = {field for field in Recipe.model_fields if getattr(recipe("best"), field) != getattr(ours, field)}
    assert differs == {
        "name",
        "lr",
        "averaging",
        "schedule",
        "lr_min",
        "temperature",
        "restart_steps",
        "max_steps",
        "max_token_passes",
        "growth",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_goes_by_its_name_and_survives_json(name):
    assert recipe(name).name == name
    assert Recipe.model_validate_json(recipe(name).model_dump_json()) == recipe(name)


def test_recipes_are_frozen_and_refuse_unknown_fields():
    with pytest.raises(ValidationError, match="frozen"):
        recipe("best").lr = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        recipe("horizon").growth.start = 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe(name="mine", parametrisation="free", lr=0.1, momentum=0.9)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Growth(stop=1)


def test_change_leaves_the_original_alone():
    assert recipe("paper", max_steps=7, name="short").max_steps == 7
    assert recipe("paper").max_steps == 5000


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(CrammingError, match="recipe 'wurst' is unknown") as caught:
        recipe("wurst")
    assert all(name in str(caught.value) for name in RECIPES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": -0.5}, "lr = -0.5"),
        ({"lr": float("inf")}, "lr = inf"),
        ({"lr": "fast"}, "lr = 'fast'"),
        ({"momentum": 0.9}, "momentum = 0.9"),
        ({"keep": "never"}, "keep = 'never'"),
        ({"max_steps": 0}, "max_steps = 0"),
        ({"growth": {"start": 0}}, "growth.start = 0"),
    ],
)
def test_refused_change_is_named_in_one_line(change, named):
    with pytest.raises(CrammingError) as caught:
        recipe("best", **change)
    message = str(caught.value)
    assert "recipe 'best'" in message
    assert named in message
    assert "max_token_passes" in message  # the fields there are
    assert "\n" not in message


# Another value for every field but the name.
OTHER = {
    "memory": "proto",
    "parametrisation": "free",
    "radius": 2.0,
    "init": "embedding_std",
    "init_std": 0.5,
    "bits": 2,
    "block": 32,
    "lr": 0.3,
    "lr_min": 0.1,
    "schedule": "cosine",
    "full_rate_length": 9,
    "warmup_steps": 3,
    "betas": (0.9, 0.99),
    "averaging": 0.5,
    "eps": 1e-6,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "score_first": False,
    "focus": 1.5,
    "focus_max": 3.0,
    "temperature": 0.25,
    "restart_steps": 5,
    "restart_below": 9,
    "max_steps": 8,
    "max_token_passes": 9,
    "patience": 2,
    "stop_margin": 0.5,
    "keep": "after_step",
    "growth": Growth(),
}
PLAIN = {"name": "plain", "parametrisation": "sphere", "lr": 0.1}
NEEDED = {"block": {"bits": 2}}  # what else a field is refused without


def test_every_field_decides_but_the_name():
    assert set(OTHER) == set(Recipe.model_fields) - {"name"}
    plain = Recipe(**PLAIN).deciding()
    assert Recipe(**PLAIN | {"name": "another"}).deciding() == plain
    for field, value in OTHER.items():
        some = PLAIN | NEEDED.get(field, {})
        assert Recipe(**some | {field: value}).deciding() != Recipe(**some).deciding(), field


def test_defaults_decide_nothing_so_that_later_options_keep_old_keys():
    plain = Recipe(**PLAIN)
    spelled_out = Recipe.model_validate(plain.model_dump())
    assert spelled_out.deciding() == plain.deciding() == {"parametrisation": "sphere", "lr": 0.1}
    # Numbers that are equal decide the same, however a plan writes them.
    assert recipe("paper", lr=1, betas=[0.9, 0.9]).deciding() == recipe("paper", lr=1.0).deciding()


def test_growth_of_all_defaults_is_not_no_growth():
    grown = Recipe(**PLAIN, growth=Growth())
    assert grown.deciding() != Recipe(**PLAIN).deciding()
    assert grown.deciding() != Recipe(**PLAIN, growth=Growth(block=9)).deciding()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "none"),
        ({"max_steps": 5000, "patience": 2000}, "5,000 steps or 2,000 steps without a better accuracy"),
        ({"max_token_passes": 8000}, "8,000 token passes"),
    ],
)
def test_budget_in_words(changes, words):
    assert Recipe(**PLAIN, **changes).budget == words
