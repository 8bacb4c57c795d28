"""A number from the row's state in place of the rule's own."""

import jax
import numpy as np
import pytest

from jaxdlm import InputError, chain, policies
from jaxdlm.core.carry import Update
from jaxdlm.rules import sample, select_above
from jaxdlm.rules.per_row import PerRowState, has_number, per_row, with_number
from tests.rules.hand import call, row

HEATED = policies.RECIPES["threshold"](0.3, temperature=np.float32(1))


def test_the_row_decides():
    """Two rows with the same key: each proposes what the rule alone proposes at its temperature."""
    logits = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    key, view = jax.random.key(3), row([True] * 4)
    rule = per_row(HEATED)
    state = rule.init(4, 6)
    for temperature in (0.0, 0.5, 3.0):
        update, after = call(
            rule, Update(logits), PerRowState({"temperature": np.float32(temperature)}, state.state), view, key
        )
        alone = policies.RECIPES["threshold"](0.3, temperature=np.float32(temperature))
        want, _ = call(alone, Update(logits), alone.init(4, 6), view, key)
        np.testing.assert_array_equal(update.token, want.token)
        np.testing.assert_array_equal(update.commit, want.commit)
        assert after.numbers["temperature"] == np.float32(temperature)


def test_fields_are_found_at_any_depth():
    assert has_number(HEATED, "temperature")
    assert not has_number(chain(select_above(0.5)), "temperature")
    changed = with_number(chain(sample(0.5), select_above(0.5)), "tau", 0.25)
    assert (changed.rules[0].temperature, changed.rules[1].tau) == (0.5, 0.25)
    with pytest.raises(InputError, match="no temperature: leave it out"):
        per_row(chain(select_above(0.5)))


def test_the_rest_is_the_rules_own():
    rule = per_row(HEATED)
    assert (rule.traits.view, rule.traits.uncond) == (HEATED.traits.view, HEATED.traits.uncond)
