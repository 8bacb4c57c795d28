"""Traits of rules; bounds of forwards: sums and products that do not wrap around, as plain numbers and as tracers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode
from jaxdlm.core.carry import Geometry, LogitsAccess
from jaxdlm.core.compose import Traits
from jaxdlm.core.rule import MOST, Stage, plus, times
from jaxdlm.errors import Moved
from jaxdlm.policies import RECIPES
from tests.conformance.toys import GRID, MASK, PROMPTS, RULES, model, parameters

LARGE = (0, 1, 2, 7, 2**15, 2**16, 2**30 - 1, 2**30, MOST - 1, MOST)


@pytest.mark.slow
@pytest.mark.parametrize("traced", [False, True])
def test_they_stop_at_the_largest_number(traced):
    run = jax.jit if traced else lambda f, **_: f
    for a in LARGE:
        for b in LARGE:
            assert int(run(plus)(a, b)) == min(a + b, MOST)
            if b:
                assert int(run(times, static_argnums=0)(b, a)) == min(a * b, MOST)


@pytest.mark.parametrize("recipe", [*RULES, "entropy_bound"])
def test_every_recipe_has_room_for_its_canvas_at_its_largest_numbers(recipe):
    geometry = Geometry(16, 32, 2048)
    largest = {"steps": 2**16, "max_post_steps": 1024 if recipe == "llada22" else MOST, "num_to_transfer": MOST}
    for name in set(largest) & set(parameters(recipe)):
        rule = RECIPES[recipe](**{name: largest[name]})
        traced = jax.jit(lambda rule: jnp.asarray(rule.forwards(geometry), jnp.int32))(rule)
        for bound in (rule.forwards(geometry), traced):
            least = geometry.blocks if recipe == "entropy_bound" or name == "num_to_transfer" else geometry.canvas
            assert least <= int(bound) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("most", [2**30, MOST])
def test_a_limit_that_is_never_met_leaves_no_mask(most):
    out = decode(model("same"), PROMPTS, f"llada21,max_post_steps={most}", **GRID)
    assert not (out.tokens == MASK).any()
    np.testing.assert_array_equal(
        out.tokens, decode(model("same"), PROMPTS, "llada21,max_post_steps=64", **GRID).tokens
    )


def test_what_a_rule_said_in_attributes_it_says_in_its_traits():
    with pytest.raises(Moved, match=r"Old.view: a rule says this in its traits, declares = Traits\(view=...\)"):
        type("Old", (Stage,), {"view": "canvas"})
    new = type("New", (Stage,), {"declares": Traits(reads=("token",), writes=("commit",), view="canvas")})
    assert new().traits.view == "canvas" and new().traits.logits_access is LogitsAccess.NOTHING
