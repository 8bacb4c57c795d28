"""Every implementation of attention computes what the plain one does, for every kind of mask, ragged rows included."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdlm import InputError
from jaxdlm.models import attention
from jaxdlm.models.attention import Spread, attend, choose, kernel
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.masks import attention_masks
from jaxdlm.sharding import make_mesh, spread, striped
from tests.models.configs import CONFIGS
from tests.models.weights import loud_params

B, L, N, K, H = 2, 256, 4, 2, 16
RNG = np.random.default_rng(0)
Q, KEYS, VALUES = (jnp.asarray(RNG.normal(size=(B, L, n, H)), jnp.float32) for n in (N, K, K))
PADS = np.array([0, 37])  # no multiple of a block, nor of a tile
ATTENTIONS = ("full", "causal", "block")


def allowed(kind: str, pads=PADS):
    """Who sees whom in rows with pads on their left, from the family's own masks."""
    column = np.arange(L, dtype=np.int32)[None] - pads[:, None]
    config = CONFIGS[kind]
    return attention_masks(config, np.maximum(column, 0).astype(np.int32), jnp.asarray(column >= 0), None, None).global_


def oracle(allow):
    """float64, one head at a time."""
    out = np.zeros((B, L, N, H))
    for b in range(B):
        for n in range(N):
            scores = np.float64(Q[b, :, n]) @ np.float64(KEYS[b, :, n // (N // K)]).T * 0.3
            scores = np.where(allow[b], scores, -1e300)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out[b, :, n] = weights / weights.sum(1, keepdims=True) @ np.float64(VALUES[b, :, n // (N // K)])
    return out


@functools.partial(jax.jit, static_argnums=0)
def run(way, allow):
    return way(Q, KEYS, VALUES, allow, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_the_kernel_is_the_plain_path_and_both_are_float64(kind):
    """The kernel interpreted; queries of pads see no key, and get the same mean."""
    allow = np.asarray(allowed(kind))
    assert not allow[1, :, :37].any() and allow[0].any(1).all()
    plain, tiled = run(attend, allow), run(kernel, allow)
    np.testing.assert_allclose(plain, oracle(allow), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tiled, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axes", [{"data": 2, "tensor": 2}, {"tensor": 4}, {"fsdp": 2}, {"data": 4}], ids=str)
def test_the_kernel_on_the_rows_and_heads_of_each_device(axes):
    """On four devices, interpreted: by hand over the whole mesh, and over what is left of it where its groups are split
    by hand already. Two key heads do not go into four devices, nor two rows: those lie whole on each."""
    mesh, allow = make_mesh(axes), jnp.asarray(allowed("full"))
    config = dataclasses.replace(CONFIGS["full"], num_heads=N, num_kv_heads=K if axes != {"tensor": 4} else N)
    shares = spread(config, mesh)
    keys, values = (jnp.repeat(x, config.num_kv_heads // K, axis=2) for x in (KEYS, VALUES))
    inputs = tuple(jax.device_put(x, NamedSharding(mesh, P())) for x in (Q, keys, values, allow))
    plain = run(attend, allow)
    way = jax.jit(lambda *x: choose("flash", False, shares)(*x, 0.3))
    np.testing.assert_allclose(way(*inputs), plain, rtol=0, atol=1e-5)
    heads, rows = N // axes.get("tensor", 1), B // axes.get("data", axes.get("fsdp", 1)) or B
    assert f"f32[{rows},{heads},{L},{H}]" in way.lower(*inputs).compile().as_text(), "the share of a device"
    if "data" in axes and B % axes["data"] == 0:
        group = jax.jit(
            jax.shard_map(way, mesh=mesh, in_specs=P("data"), out_specs=P("data"), axis_names={"data"}, check_vma=False)
        )
        np.testing.assert_allclose(group(*inputs), plain, rtol=0, atol=1e-5)


def test_heads_that_devices_do_not_share_alike_are_left_to_the_compiler():
    config, mesh = dataclasses.replace(CONFIGS["full"], num_heads=4, num_kv_heads=2), make_mesh({"tensor": 4})
    assert spread(config, mesh) is None
    assert spread(dataclasses.replace(config, num_kv_heads=4), mesh).heads == "tensor"
    assert spread(dataclasses.replace(config, num_heads=6, num_kv_heads=2), mesh).heads is None, "all whole"


def test_the_gradient_of_the_kernel_is_that_of_the_plain_path():
    allow, inputs = np.asarray(allowed("causal"))[:, :128, :128], tuple(x[:, :128] for x in (Q, KEYS, VALUES))
    weight = jnp.asarray(RNG.normal(size=inputs[0].shape), jnp.float32)

    def slope(way):
        return jax.jit(jax.grad(lambda x: jnp.sum(weight * way(*x, allow, 0.3))))(inputs)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), slope(kernel), slope(attend))


def test_a_stack_with_the_kernel_is_the_stack_without():
    config = CONFIGS["block"]
    params = loud_params(config)
    column = np.arange(128, dtype=np.int32)[None] - np.array([[5]], np.int32)
    inputs = (RNG.integers(0, 100, (1, 128), np.int32), np.maximum(column, 0), column >= 0)
    models = [Backbone(config, attention=kind) for kind in ("xla", "flash")]
    plain, tiled = (jax.jit(lambda p, *x, m=m: m.apply(p, *x).hidden)(params, *inputs) for m in models)
    np.testing.assert_allclose(tiled[:, 5:], plain[:, 5:], atol=1e-4)
    assert not np.array_equal(tiled, plain), "the same program ran twice"


def lowered(platform: str, dtype, *, alone: bool = True, queries: int = 4096, spread=None) -> str:
    """The program of `auto` for a platform that is not here."""
    shapes = [jax.ShapeDtypeStruct((2, queries, heads, 128), dtype) for heads in (8, 2, 2)]
    shapes.append(jax.ShapeDtypeStruct((2, queries, queries), bool))
    way = jax.jit(lambda q, k, v, allow: choose("auto", alone, spread)(q, k, v, allow, 0.1))
    return way.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def test_auto_goes_by_the_platform_of_the_program(monkeypatch):
    """Long rows: the kernel on one TPU, and on many whose shares are known; plain on CPUs, and where scores are small; cuDNN
    on GPUs."""
    assert "tpu_custom_call" in lowered("tpu", jnp.bfloat16)
    assert "tpu_custom_call" not in lowered("tpu", jnp.bfloat16, alone=False)
    shared = Spread(make_mesh({"data": 2, "tensor": 2}), ("data",), "tensor")
    assert "tpu_custom_call" in lowered("tpu", jnp.bfloat16, alone=False, spread=shared)
    assert "tpu_custom_call" not in lowered("tpu", jnp.bfloat16, queries=256)
    assert "custom_call" not in lowered("cpu", jnp.bfloat16)
    with_a_gpu(monkeypatch)
    assert "__cudnn$fmhaScaleBiasSoftmax" in lowered("cuda", jnp.bfloat16)
    assert "cudnn" not in lowered("cuda", jnp.float32), "cuDNN's flash attention has no float32"
    assert "cudnn" not in lowered("cpu", jnp.bfloat16)


def with_a_gpu(monkeypatch):
    """As on a machine with a GPU: JAX asks the installed cuDNN for its version while it traces."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")


def test_alone_is_where_the_weights_lie():
    config = CONFIGS["full"]
    params = loud_params(config)
    assert striped(Backbone(config), params).alone
    assert not Backbone(config).alone


@pytest.mark.parametrize(
    ("kind", "dtype", "columns", "message"),
    [
        ("fast", jnp.float32, 128, "one of auto, xla, cudnn, flash"),
        ("cudnn", jnp.float32, 128, "16 bits"),
        ("flash", jnp.float32, 100, "multiples of 128"),
    ],
)
def test_what_an_implementation_does_not_take_is_refused(kind, dtype, columns, message):
    x = jnp.zeros((1, columns, 2, 8), dtype)
    with pytest.raises(InputError, match=message):
        choose(kind, True)(x, x, x, jnp.ones((1, columns, columns), bool), 1.0)
