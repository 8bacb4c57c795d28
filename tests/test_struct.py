"""Structures of `jaxdlm.struct` name their class: a compiled program is never taken for another class's."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxdlm import policies, struct


def made(times: int):
    @struct.dataclass
    class Scale:
        by: float
        name: str = struct.field(pytree_node=False, default="scale")

        def __call__(self, x):
            return x * self.by * times

    return Scale


ONE, TWO = made(1), made(2)  # same name, same fields, as after a second run of a notebook's cell


def test_classes_with_the_same_fields_have_different_structures():
    assert jax.tree.structure(ONE(2.0)) != jax.tree.structure(TWO(2.0))
    assert jax.tree.structure(ONE(2.0)) == jax.tree.structure(ONE(3.0))
    assert jax.tree.structure(ONE(2.0)) != jax.tree.structure(ONE(2.0, "other"))
    with pytest.raises(ValueError):
        jax.tree.map(lambda a, b: a + b, ONE(2.0), TWO(2.0))


@pytest.mark.slow
def test_one_jitted_function_never_takes_one_for_the_other():
    """With structures that compare equal, one in ten was."""
    apply, taken = jax.jit(lambda scale, x: scale(x)), []
    for times in range(1, 61):
        taken.append(float(apply(made(times)(1.0), 1.0)))
    assert taken == list(range(1, 61))


def test_a_tree_and_back():
    one = ONE(2.0, "a")
    leaves, structure = jax.tree.flatten(one)
    assert leaves == [2.0] and structure.unflatten([3.0]) == ONE(3.0, "a")
    (((key,), leaf),) = jax.tree_util.tree_leaves_with_path({"x": one}["x"])
    assert (key, leaf) == (jax.tree_util.GetAttrKey("by"), 2.0)
    assert one.replace(by=4.0) == ONE(4.0, "a") and one == ONE(2.0, "a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.by = 1.0
    np.testing.assert_array_equal(jax.vmap(lambda scale: scale(1.0))(ONE(np.arange(3.0))), np.arange(3.0))


@pytest.mark.parametrize("known", ["caches", "recipes"])
def test_equal_structures_are_of_equal_classes(known):
    """What is passed to one jitted function: if two of them had one structure, one could run the other's program."""
    table = {"caches": policies.CACHES, "recipes": policies.RECIPES}[known]
    trees = [made for made in (make() for make in table.values()) if hasattr(made, "init")]
    for a, b in itertools.combinations(trees, 2):
        if jax.tree.structure(a) == jax.tree.structure(b):
            assert type(a) is type(b)
