"""A layer's weights are read where they lie in the stack: no copy, no other result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core.compiled import options
from jaxdlm.models import Backbone, apart
from jaxdlm.models.layers import product
from tests.models.configs import CONFIGS
from tests.models.weights import loud_params

LAYERS, WIDTH, HEADS, SIZE = 3, 32, 4, 8
FORMS = {
    "btd,dnh->btnh": (WIDTH, HEADS, SIZE), "btnh,nhd->btd": (HEADS, SIZE, WIDTH), "...i,io->...o": (WIDTH, 2 * WIDTH),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(apart, "LARGE", {})


def weights(form, dtype="float32"):
    stack = np.random.default_rng(0).normal(size=(LAYERS, *FORMS[form]))
    return jax.device_put(jnp.asarray(stack, dtype), jax.devices()[0])


def rows(form, count, dtype="float32"):
    shape = (HEADS, SIZE) if form.startswith("btnh") else (WIDTH,)
    return jnp.asarray(np.random.default_rng(1).normal(size=(count, 1, *shape)), dtype)


def split(stack):
    return apart.apart({"segments": (({"wq": stack},),)})["segments"][0][0]["wq"]


def through(form, x, leaf):
    """Every layer's product with the same x, by a loop."""
    one = lambda _, at: (None, product(form, x, apart.chosen({"wq": leaf}, at)["wq"]))  # noqa: E731
    return jax.lax.scan(one, None, jnp.arange(LAYERS, dtype=jnp.int32))[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2])
def test_products_against_float64(form, count):
    stack, x = weights(form), rows(form, count)
    found = jax.jit(through, static_argnums=0)(form, x, split(stack))
    wide = [np.einsum(form, np.float64(x), np.float64(one)) for one in stack]
    np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_products_of_16_bits_are_those_of_the_slice(count):
    form = "...i,io->...o"
    stack, x = weights(form, "bfloat16"), rows(form, count, "bfloat16")
    sliced = jax.lax.map(lambda weight: product(form, x, weight), stack)
    np.testing.assert_array_equal(jax.jit(through, static_argnums=0)(form, x, split(stack)), sliced)


@pytest.mark.parametrize("count", [1, 4])
def test_no_program_copies_a_layer(count):
    form = "...i,io->...o"
    stack = jax.device_put(np.ones((LAYERS, 512, 1024), np.float32), jax.devices()[0])
    x = jnp.ones((count, 1, 512))
    program = jax.jit(through, static_argnums=0, compiler_options=options()).lower(form, x, split(stack)).compile()
    assert program.memory_analysis().temp_size_in_bytes < stack[0].nbytes / 4
    sliced = jax.jit(lambda x, stack: jax.lax.map(lambda weight: product(form, x, weight), stack))
    assert sliced.lower(x, stack).compile().memory_analysis().temp_size_in_bytes >= stack[0].nbytes


def test_views_are_the_stack_itself():
    stack = weights("...i,io->...o")
    leaf = split(stack)
    begins = [layer.unsafe_buffer_pointer() - stack.unsafe_buffer_pointer() for layer in leaf.layers]
    assert begins == [at * stack[0].nbytes for at in range(LAYERS)] and leaf.stack is stack
    np.testing.assert_array_equal(leaf.layers[2], stack[2])


@pytest.mark.parametrize(
    "name, leaf",
    [
        ("attn_norm", np.ones((2, 64), np.float32)), ("e_up", np.ones((2, 4, 64), np.float32)),
        ("wq", np.ones((1, 64, 64), np.float32)), ("up", np.ones((2, 3, 3), np.float32)),  # no whole words
    ],
)  # fmt: skip
def test_what_stays_a_stack(name, leaf):
    leaf = jax.device_put(leaf, jax.devices()[0])
    assert apart.apart({"segments": (({name: leaf},),)})["segments"][0][0][name] is leaf


def test_stacks_of_several_devices_and_small_ones_stay(monkeypatch):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "x")
    stack = weights("...i,io->...o")
    spread = jax.device_put(stack, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    assert split(spread) is spread
    monkeypatch.setattr(apart, "LARGE", {4: stack[0].nbytes + 1})
    assert split(stack) is stack
    assert apart.apart({"table": stack}) == {"table": stack}  # of another model than a Backbone


@pytest.mark.slow
def test_a_model_reads_both_alike():
    config = CONFIGS["prefix_canvas"]  # three kinds of layers in turns, experts, scalars
    params = jax.device_put(loud_params(config), jax.devices()[0])
    tokens = jnp.arange(5, dtype=jnp.int32)[None]
    run = jax.jit(lambda params: Backbone(config).apply(params, tokens, tokens, tokens >= 0).hidden)
    split = apart.apart(params)
    assert len(jax.tree.leaves(split)) > len(jax.tree.leaves(params))
    np.testing.assert_allclose(run(split), run(params), rtol=1e-4, atol=1e-4)


def test_a_tied_head_is_turned_over_once():
    model = Backbone(CONFIGS["causal"])
    params = loud_params(model.config, 0)
    parted = apart.apart(params)
    np.testing.assert_array_equal(parted["lm_head"], params["embed"].T)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, model.config.hidden_size)), jnp.float32)
    np.testing.assert_allclose(model.head(parted, x), model.head(params, x), rtol=1e-5, atol=1e-5)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert "lm_head" not in apart.apart(half), "its bits are those of the table"
    assert "lm_head" not in params and apart.apart({"wte": 1}) == {"wte": 1}
