"""Router and experts against a loop over tokens in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.models import ModelConfig
from jaxdlm.models.apart import EXPERTS
from jaxdlm.models.expert_ways import _every, _ragged
from jaxdlm.models.moe import mixture, route
from tests.models.configs import CONFIGS, GROUPED, MOE, change
from tests.models.weights import loud_params

ROUTERS = {
    "plain": change(**MOE),
    "renormalised": change(**MOE, norm_topk=True),
    "grouped": change(**GROUPED, routed_scale=2.5, router_in_f32=True),
    "one_expert_groups": change(**MOE | {"n_group": 8, "topk_group": 5}),
    "shared": change(**MOE, shared_size=12),
    "parallel": CONFIGS["prefix_canvas"],
}


computed = jax.jit(mixture, static_argnums=3)


def layer(config: ModelConfig) -> dict:
    leaves = loud_params(config, 3)["segments"][0][0]
    return {name: jax.device_put(np.asarray(leaf)[0]) for name, leaf in leaves.items()}


def slow_route(leaves: dict, x: np.ndarray, config: ModelConfig) -> dict[int, float]:
    """Weights by expert for one token."""
    if "router_scale" in leaves:
        x = x / np.sqrt(np.mean(x**2) + config.norm_eps) * leaves["router_scale"] / np.sqrt(len(x))
    logits = x @ leaves["router"]
    score = 1 / (1 + np.exp(-logits)) if config.router_score == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
    select = score + leaves["router_bias"] if config.router_bias else score
    size = config.num_experts // config.n_group
    groups = [select[g * size : (g + 1) * size] for g in range(config.n_group)]
    strength = [sum(sorted(group)[-2:]) for group in groups]
    kept = sorted(range(config.n_group), key=lambda g: -strength[g])[: config.topk_group]
    candidates = [e for e in range(config.num_experts) if e // size in kept]
    chosen = sorted(candidates, key=lambda e: -select[e])[: config.top_k]
    total = sum(score[e] for e in chosen) if config.norm_topk else 1.0
    scale = leaves.get("per_expert_scale", np.ones(config.num_experts))
    return {e: score[e] / total * config.routed_scale * scale[e] for e in chosen}


def act(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("name", ROUTERS)
def test_experts_equal_a_loop_over_tokens(name: str) -> None:
    config = ROUTERS[name]
    leaves = layer(config)
    slow = {key: np.asarray(leaf, np.float64) for key, leaf in leaves.items()}
    x = np.random.default_rng(0).standard_normal((2, 5, config.hidden_size)).astype(np.float32)
    weights, chosen = jax.jit(lambda x: route(leaves, x, config))(x.reshape(10, -1))
    y = computed(leaves, x, x, config)
    for m, token in enumerate(x.reshape(10, -1).astype(np.float64)):
        expected = slow_route(slow, token, config)
        assert set(np.asarray(chosen[m]).tolist()) == set(expected)
        for e, w in zip(np.asarray(chosen[m]).tolist(), np.asarray(weights[m])):
            assert w == pytest.approx(expected[e], rel=1e-5)
        total = sum(
            w * ((act(token @ slow["e_gate"][e]) * (token @ slow["e_up"][e])) @ slow["e_down"][e])
            for e, w in expected.items()
        )
        if config.shared_size:
            total = total + (act(token @ slow["s_gate"]) * (token @ slow["s_up"])) @ slow["s_down"]
        np.testing.assert_allclose(np.asarray(y).reshape(10, -1)[m], total, atol=1e-5)


def test_every_token_may_choose_the_same_expert() -> None:
    config = change(**MOE | {"top_k": 1})
    leaves = layer(config)
    leaves["router"] = jnp.zeros_like(leaves["router"]).at[:, 4].set(1.0)
    x = jnp.abs(jax.random.normal(jax.random.key(0), (1, 64, config.hidden_size), jnp.float32))
    y = computed(leaves, x, x, config)
    alone = computed(leaves, x[:, 9:10], x[:, 9:10], config)
    np.testing.assert_allclose(y[:, 9:10], alone, atol=1e-5)
    assert bool(jnp.all(jnp.any(y != 0, axis=-1)))


def test_permuting_experts_with_their_router_columns_changes_nothing() -> None:
    config = dataclasses.replace(ROUTERS["plain"], router_bias=True)
    leaves = layer(config)
    order = np.random.default_rng(2).permutation(config.num_experts)
    moved = leaves | {
        "router": leaves["router"][:, order],
        "router_bias": leaves["router_bias"][order],
        **{name: leaves[name][order] for name in ("e_gate", "e_up", "e_down")},
    }
    x = jax.random.normal(jax.random.key(1), (2, 7, config.hidden_size), jnp.float32)
    np.testing.assert_allclose(computed(moved, x, x, config), computed(leaves, x, x, config), atol=1e-5)


def test_a_permutation_across_groups_does_change_the_choice() -> None:
    config = ROUTERS["grouped"]
    leaves = layer(config)
    order = np.asarray([0, 2, 1, 3, 4, 6, 5, 7])
    moved = leaves | {
        "router": leaves["router"][:, order],
        "router_bias": leaves["router_bias"][order],
        **{name: leaves[name][order] for name in ("e_gate", "e_up", "e_down")},
    }
    x = jax.random.normal(jax.random.key(1), (2, 20, config.hidden_size), jnp.float32)
    assert float(jnp.abs(computed(moved, x, x, config) - computed(leaves, x, x, config)).max()) > 1e-2


@pytest.mark.parametrize("chunk", [10, 4], ids=["at once", "in chunks, the last one filled up"])
def test_all_experts_on_all_tokens_are_the_chosen_ones(chunk: int) -> None:
    """What GPUs compute, against what others do."""
    config = ROUTERS["grouped"]
    leaves = layer(config)
    x = jax.random.normal(jax.random.key(0), (10, config.hidden_size))
    _, chosen = jax.jit(lambda x: route(leaves, x, config))(x)
    own = tuple(leaves[name] for name in EXPERTS)
    found = jax.jit(lambda x, chosen: _every(x, chosen, own, config, chunk))(x, chosen)
    expected = jax.jit(lambda x, chosen: _ragged(x, chosen, own, config))(x, chosen)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
