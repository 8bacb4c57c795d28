"""Which settings are compared, and how they are written."""

import inspect

import pytest

from jaxdlm import InputError, policies
from jaxdlm.core.rule import Rule
from jaxdlm.eval import sweeps


@pytest.mark.parametrize("recipe", policies.RECIPES)
def test_every_recipe_with_a_knob_has_a_curve(recipe):
    found = sweeps.sweep(recipe, 16)
    takes = inspect.signature(policies.RECIPES[recipe]).parameters
    assert len({sweeps.canonical(settings) for settings in found}) == len(found)
    assert all(set(settings) <= set(takes) for settings in found)
    if set(takes) & set(sweeps.KNOBS):
        assert len(found) >= 6


@pytest.mark.parametrize("recipe", [name for name in policies.RECIPES if name in ("threshold", "prophet", "ccd_ds")])
def test_settings_build_rules(recipe):
    for settings in sweeps.sweep(recipe, 16) + sweeps.sweep(recipe, 64):
        assert isinstance(policies.RECIPES[recipe](**settings), Rule)


def test_a_cache_is_swept_over_its_interval():
    assert sweeps.cache_sweep("none", 16) == [{}]
    assert [s["refresh_every"] for s in sweeps.cache_sweep("dual", 16)][:2] == [1, 2]


def test_choices_are_written_like_a_policy():
    found = sweeps.choices(
        "threshold,local_leap,kappa=[0.8,0.9],radius=4,prophet,thresholds=(8,5,3)", policies.RECIPES, "policy"
    )
    assert found == [
        ("threshold", None),
        ("local_leap", ({"kappa": 0.8, "radius": 4}, {"kappa": 0.9, "radius": 4})),
        ("prophet", ({"thresholds": (8, 5, 3)},)),
    ]
    (mixed,) = sweeps.choices("adadec,threshold=[tiny-ar,0.5]", policies.RECIPES, "policy")
    assert mixed.settings == ({"threshold": "tiny-ar"}, {"threshold": 0.5})
    (words,) = sweeps.choices("ccd,mode=[paper,release]", policies.RECIPES, "policy")
    assert words.settings == ({"mode": "paper"}, {"mode": "release"})
    assert [c.name for c in sweeps.choices("all", policies.RECIPES, "policy")] == list(policies.RECIPES)
    assert sweeps.label("prophet", {"thresholds": (8.0, 5.0, 3.5)}) == "prophet,thresholds=(8,5,3.5)"


@pytest.mark.parametrize(
    "words, named",
    [("treshold", "did you mean 'threshold'"), ("threshold,tua=1", "tua"), ("threshold,=1", "key=value"), ("", "''")],
)
def test_a_wrong_choice_is_named(words, named):
    with pytest.raises(InputError, match=named):
        sweeps.choices(words, policies.RECIPES, "policy")
