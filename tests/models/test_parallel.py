"""Layer-parallel attention against the layers one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.models import Backbone
from tests.models.configs import CONFIGS, change
from tests.models.weights import loud_params

DEEP = change(attention="causal", prediction="next", num_layers=7)


def run(config, group, params=None):
    params = loud_params(config, 2) if params is None else params
    tokens = jnp.arange(10, dtype=jnp.int32).reshape(2, 5) % config.vocab_size
    position = jnp.broadcast_to(jnp.arange(5, dtype=jnp.int32), tokens.shape)
    out = jax.jit(Backbone(config, group=group).apply)(params, tokens, position, jnp.ones(tokens.shape, bool))
    return np.asarray(out.hidden), out.kv


def without(params, *names):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jax.device_put(np.zeros(leaf.shape, leaf.dtype)) if str(getattr(path[-1], "key", "")) in names else leaf
        ),
        params,
    )


@pytest.mark.slow
def test_groups_change_the_result_and_groups_of_one_do_not():
    exact, kv = run(DEEP, 1)
    rough, rough_kv = run(DEEP, 2)
    assert np.abs(exact - rough).max() > 1e-3
    assert jax.tree.map(jnp.shape, kv) == jax.tree.map(jnp.shape, rough_kv)
    for a, b in zip(jax.tree.leaves(kv), jax.tree.leaves(rough_kv)):
        np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5, atol=1e-5)  # layers 0 and 1 read the same input either way
        assert np.abs(a[2] - b[2]).max() > 1e-3


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_stacks_without_inner_layers_are_exact(layers):
    config = dataclasses.replace(DEEP, num_layers=layers)
    np.testing.assert_allclose(run(config, 4)[0], run(config, 1)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_only_attention_is_stale():
    """Without attention a group is its layers; without feed-forwards it is its input and the sum of all attentions."""
    params = loud_params(DEEP, 2)
    silent = without(params, "wo")
    np.testing.assert_allclose(run(DEEP, 3, silent)[0], run(DEEP, 1, silent)[0], rtol=1e-4, atol=1e-5)

    mute = without(params, "down")
    config = dataclasses.replace(DEEP, num_layers=4)
    cut = lambda tree, index: jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[index]), tree)  # noqa: E731
    four = mute | {"segments": ((cut(mute["segments"][0][0], [0, 1, 2, 3]),),)}
    ends = mute | {"segments": ((cut(mute["segments"][0][0], [0]),),)}
    start = stream(dataclasses.replace(DEEP, num_layers=1), ends)
    added = [
        stream(dataclasses.replace(DEEP, num_layers=2), mute | {"segments": ((cut(mute["segments"][0][0], [0, i]),),)})
        - start
        for i in (1, 2)
    ]
    whole = stream(config, four, group=2, drop_last=True)
    np.testing.assert_allclose(whole, start + added[0] + added[1], rtol=1e-4, atol=1e-4)


def stream(config, params, group=1, drop_last=False):
    """The residual stream behind the stack, before the final norm: its last layer silenced where asked."""
    if drop_last:
        quiet = dict(params["segments"][0][0])
        quiet["wo"] = quiet["wo"].at[-1].set(0)
        params = params | {"segments": ((quiet,),)}
    from jaxdlm.models import backbone

    keep, backbone.rms_norm = backbone.rms_norm, lambda x, weight, config: x
    try:
        return run(config, group, params)[0]
    finally:
        backbone.rms_norm = keep


@pytest.mark.slow
def test_mixed_stacks_run_too():
    """Local and global layers of one shape: rotation and mask of a layer go with it into the group."""
    config = CONFIGS["local_global"]
    hidden, _ = run(config, 3)
    assert np.isfinite(hidden).all()
    np.testing.assert_allclose(run(dataclasses.replace(config, num_layers=2, layer_kinds=("local", "global")), 3)[0],
                               run(dataclasses.replace(config, num_layers=2, layer_kinds=("local", "global")), 1)[0],
                               rtol=1e-4, atol=1e-4)  # fmt: skip
