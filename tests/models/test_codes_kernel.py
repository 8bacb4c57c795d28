"""Products with codes in groups against those with the dequantised weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.models import codes_kernel, explain
from jaxdlm.models.apart import Place, Within, within
from jaxdlm.models.layers import product, read
from jaxdlm.quant import quantize

FORMS = {
    "btd,dnh->btnh": ((256, 4, 64), (-3,)),
    "btnh,nhd->btd": ((4, 64, 256), (-3, -2)),
    "...i,io->...o": ((1024, 256), (-2,)),
}


def stack_of(form, bits, group, kind, dtype="float32"):
    shape, axes = FORMS[form]
    draw = np.random.default_rng(0).standard_normal((2, *shape))
    return quantize(jnp.asarray(draw / 16, dtype), bits, axes=axes, group=group, kind=kind)[0]


def of_layer(stack, layer):
    own = jax.tree.map(lambda leaf: leaf[layer], stack)
    return within({"w": own}, {"w": stack}, jnp.int32(layer), Place("tpu"))["w"]


def x_of(form, tokens, dtype):
    sides = FORMS[form][0][: len(FORMS[form][1])]
    return jnp.asarray(np.random.default_rng(1).standard_normal((1, tokens, *sides)), dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "bits", "kind"),
    [
        ("btd,dnh->btnh", 8, "uniform"), ("btnh,nhd->btd", 8, "power"), ("...i,io->...o", 4, "power"),
        *(pytest.param(form, 8, kind, marks=pytest.mark.exhaustive) for form in FORMS for kind in ("uniform", "power")),
    ],
)  # fmt: skip
def test_the_product_is_that_with_the_dequantised_weight(form, bits, kind):
    """float32: by the order of sums of 1,024 addends near 1/16; bfloat16: a rounding of the result, 2^-8 of at most 4."""
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 2**-6)):
        stack, x = stack_of(form, bits, 16, kind, dtype), x_of(form, 5, dtype)
        with explain.listening() as lines:
            found = jax.jit(lambda x, leaf: product(form, x, read(leaf, x.dtype)))(x, of_layer(stack, 1))
        assert "in groups: kernel" in next(iter(lines))
        own = of_layer(stack, 1).own
        expected = jax.jit(lambda x, leaf: product(form, x, read(leaf, x.dtype)))(x, own)
        np.testing.assert_allclose(np.float32(found), np.float32(expected), rtol=0, atol=tolerance)


def test_a_rows_bits_know_no_other_row(monkeypatch):
    """Alone, beside others, and in a second tile of rows."""
    form = "...i,io->...o"
    stack, x = stack_of(form, 8, 16, "uniform", "bfloat16"), x_of(form, 40, "bfloat16")[0]
    call = jax.jit(lambda x: codes_kernel.product(x, stack, jnp.int32(1), interpret=True))
    whole = call(x)
    np.testing.assert_array_equal(call(x[:1]), whole[:1])
    np.testing.assert_array_equal(call(x[::-1]), whole[::-1])
    monkeypatch.setattr(codes_kernel, "MOST", 16)
    jax.clear_caches()
    np.testing.assert_array_equal(call(x), whole)


@pytest.mark.parametrize(
    ("rows", "columns", "group", "shape"),
    [
        (4096, 12288, 64, (1024, 1024)), (12288, 4096, 64, (1024, 1024)), (3584, 18944, 64, (512, 512)),
        (896, 4864, 64, (896, 256)), (4096, 4096, 128, (1024, 1024)), (4096, 100, 64, None), (4096, 4096, 2048, None),
    ],
)  # fmt: skip
def test_blocks_are_whole_groups(rows, columns, group, shape):
    leaf = jax.eval_shape(lambda w: w, quantize(np.ones((128, 128), np.float32), 8, group=64)[0]).replace(
        codes=jax.ShapeDtypeStruct((1, rows, columns), "int8"),
        scale=jax.ShapeDtypeStruct((1, rows // group, columns), "float32"),
    )
    assert codes_kernel.shape_of(leaf) == shape
    assert (codes_kernel.refuses(leaf) is None) == (shape is not None)


def test_one_scale_per_channel_needs_no_kernel():
    """XLA takes such codes into the product."""
    whole, groups = (quantize(np.ones((1, 64, 128), np.float32), 8, group=group)[0] for group in (None, 16))
    layer = within({"up": whole, "down": groups}, {"up": whole, "down": groups}, jnp.int32(0), Place("tpu"))
    assert [isinstance(leaf, Within) for leaf in layer.values()] == [False, True]
    elsewhere = within({"down": groups}, {"down": groups}, jnp.int32(0), Place("cpu"))
    assert not isinstance(elsewhere["down"], Within)
