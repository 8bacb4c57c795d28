"""The tables of recipes and caches: every default constructs, every bad argument is refused by name."""

import dataclasses
import math
import re

import jax
import pytest

from jaxdlm import InputError, Rule, chain, policies, sample, stop_at_eos, threshold
from jaxdlm._decode import check
from jaxdlm.core.compose import parts
from jaxdlm.speculative.policy import Speculation, Unloaded
from tests.conformance.toys import model, parameters

NUMBERS = {  # arguments without a number as default
    "steps": 0, "alg_temp": -1, "top_p": 1.5, "top_k": -1, "eps": -1, "answer_start": -1,
    "threshold": math.nan,  # of entropy: below 0 is one column per forward
}  # fmt: skip

TOO_LARGE = {("origin", "eps"): 1.5, ("maskgit_plus", "eps"): 1.5, ("topk_margin", "eps"): 1.5, ("entropy", "eps"): 1.5}
ANY_SIGN = {("dparallel", "threshold")}  # an entropy is never below 0: one column per forward


@pytest.mark.parametrize("recipe", policies.RECIPES)
def test_every_default_constructs_and_says_why(recipe):
    built = policies.RECIPES[recipe]()
    assert isinstance(built, Rule | Speculation | Unloaded)
    assert policies.RECIPES[recipe].__doc__
    assert jax.tree.structure(built) == jax.tree.structure(policies.RECIPES[recipe]()), "two defaults trace twice"


@pytest.mark.parametrize("recipe", policies.RECIPES)
def test_bad_arguments_are_named(recipe):
    for name, default in parameters(recipe).items():
        if name in NUMBERS:
            wrong = [NUMBERS[name], math.nan, "0.9"]
        elif isinstance(default, int | float) and not isinstance(default, bool):
            wrong = [math.nan, "0.9"] if (recipe, name) in ANY_SIGN else [-1, math.nan, "0.9"]
        else:
            continue
        for value in wrong:
            with pytest.raises(InputError) as caught:
                policies.RECIPES[recipe](**{name: value})
            assert re.search("must be|leave it out", str(caught.value)), f"{recipe}({name}={value!r}): {caught.value}"
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", policies.CACHES)
def test_every_cache_constructs(cache):
    built = policies.CACHES[cache]()
    assert built.window in ("block", "canvas")


def serves(rule: Rule, cache) -> bool:
    """Whether `decode` lets a policy have a cache; block_exact wants another model, which is not the policy's affair."""
    try:
        uniform = any(getattr(part, "noise", "mask") == "uniform" for part in parts(rule))
        attention = getattr(cache, "attention", "prefix_canvas" if uniform else "full")
        check(Toy(attention), rule, cache)
    except InputError:
        return False
    return True


class Toy:
    """As much of a model as the check looks at."""

    name = "tiny"

    def __init__(self, attention: str):
        noise = "uniform" if attention == "prefix_canvas" else "mask"
        config = model("same").config
        self.config = dataclasses.replace(config, attention=attention, block_size=4, noise=noise)


def test_table_lists_every_recipe_with_caches_that_exist():
    assert [entry.name for entry in policies.TABLE] == list(policies.RECIPES)
    for entry in policies.TABLE:
        assert set(entry.caches) <= set(policies.CACHES), entry.name
        rule = policies.RECIPES[entry.name]()
        if isinstance(rule, Rule):
            served = {name for name in policies.CACHES if serves(rule, policies.CACHES[name]())}
            assert set(entry.caches) == served, f"{entry.name}: the caches that decode lets it have"
        assert entry.paper
        assert entry.idea


def test_origin_has_no_ranking_to_temper():
    with pytest.raises(InputError, match="leave it out"):
        policies.origin(alg_temp=0.1)


def test_chain_is_associative_and_refuses_what_is_no_rule():
    one, two, three = sample(), threshold(0.9), stop_at_eos()
    assert chain(chain(one, two), three) == chain(one, chain(two, three)) == chain(one, two, three)
    with pytest.raises(InputError, match="at least one rule"):
        chain()
    with pytest.raises(InputError, match="no rule"):
        chain(sample(), 0.9)
