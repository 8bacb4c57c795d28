"""LLaDA2.2: the tokens of a block share their experts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone
from jaxdlm.models.moe import Blocks, route, routing_blocks
from jaxdlm.models.registry import RELEASED, read_config
from tests.models import oracles
from tests.models.configs import CONFIGS
from tests.models.reading import logits

SIZES = [
    (32, 16, 8, 8, 2),
    (64, 256, 48, 32, 8),
    (32, 16, 16, 8, 2),
    (32, 16, 2, 8, 2),
    (12, 16, 8, 1, 2),
]  # tokens, E, C, b, k


def config_of(experts: int, capacity: int, block: int, top: int):
    shape = {"num_experts": experts, "top_k": top, "n_group": 1, "topk_group": 1, "norm_topk": True}
    return dataclasses.replace(CONFIGS["grouped_moe"], **shape, expert_capacity=capacity, routing_block=block)


def slow(
    scores: np.ndarray, bias: np.ndarray, blocks: np.ndarray, valid: np.ndarray, config
) -> tuple[np.ndarray, np.ndarray]:
    """From the formula, one token at a time; ties go to the lower id."""
    weights, chosen = [], []
    for t, score in enumerate(scores):
        best = [max((scores[u, j] + bias[j] for u in range(len(scores)) if blocks[u] == blocks[t] and valid[u]), default=-np.inf)
                for j in range(len(bias))]  # fmt: skip
        pool = sorted(range(len(bias)), key=lambda j: (-best[j], j))[: config.expert_capacity]
        own = sorted(pool, key=lambda j: (-(score[j] + bias[j]), j))[: config.top_k]
        w = np.array([score[j] for j in own])
        weights.append(w / (w.sum() + 1e-20) * config.routed_scale)
        chosen.append(own)
    return np.array(weights), np.array(chosen)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "experts", "capacity", "block", "top"), SIZES)
def test_a_block_shares_its_experts(tokens: int, experts: int, capacity: int, block: int, top: int) -> None:
    config, rng = config_of(experts, capacity, block, top), np.random.default_rng(tokens)
    x = rng.standard_normal((tokens, 32)).astype(np.float32)
    leaves = {"router": rng.standard_normal((32, experts)).astype(np.float32) * 0.3,
              "router_bias": rng.standard_normal(experts).astype(np.float32) * 0.1}  # fmt: skip
    position, valid = np.arange(tokens, dtype=np.int32), rng.random(tokens) > 0.2
    blocks = routing_blocks(config, jnp.asarray(position[None]), jnp.asarray(valid[None]))
    weights, chosen = jax.jit(lambda x: route(leaves, x, config, blocks))(x)
    scores = np.asarray(jax.nn.sigmoid(jnp.asarray(x) @ leaves["router"]))
    expected, picked = slow(scores, leaves["router_bias"], position // block, valid, config)
    there = [v or valid[position // block == t // block].any() for t, v in enumerate(valid)]
    np.testing.assert_array_equal(np.asarray(chosen)[there], picked[there])
    np.testing.assert_allclose(np.asarray(weights)[there], expected[there], atol=2e-6)


def test_rows_do_not_route_for_each_other_and_pads_nominate_nobody() -> None:
    config = config_of(8, 4, 4, 2)
    position = jnp.asarray([[0, 0, 0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]], jnp.int32)
    valid = jnp.asarray([[False, False, True, True, True, True, True], [True] * 7])
    number = np.asarray(routing_blocks(config, position, valid).number).reshape(2, 7)
    assert number[0].tolist() == [0, 0, 0, 0, 0, 0, 1] and number[1].tolist() == [7, 7, 7, 8, 8, 8, 8]
    assert isinstance(routing_blocks(config, position, valid), Blocks)
    assert routing_blocks(dataclasses.replace(config, expert_capacity=0), position, valid) is None


@pytest.mark.slow
def test_all_experts_are_plain_routing_without_groups(tmp_path) -> None:
    """C = E against our own routing with one group; fewer: another model, whose pads change nothing."""
    case, data = oracles.case("llada2_moe"), oracles.batch()
    plain = dataclasses.replace(case.config, n_group=1, topk_group=1)
    reference = logits(Backbone(plain), case.params, data.tokens, data.position, data.valid)
    every = dataclasses.replace(plain, expert_capacity=16, routing_block=8)
    ours = logits(Backbone(every), case.params, data.tokens, data.position, data.valid)
    np.testing.assert_allclose(np.asarray(ours)[data.valid], np.asarray(reference)[data.valid], atol=1e-5)
    few = dataclasses.replace(plain, expert_capacity=5, routing_block=8)
    ours = np.asarray(logits(Backbone(few), case.params, data.tokens, data.position, data.valid))
    assert np.abs(ours - np.asarray(reference))[data.valid].max() > 1e-2
    cut = [part[1:, oracles.PADDED :] for part in (data.tokens, data.position, data.valid)]
    np.testing.assert_allclose(
        np.asarray(logits(Backbone(few), case.params, *cut))[0], ours[1, oracles.PADDED :], atol=1e-4
    )


@pytest.mark.slow
def test_a_release_is_read_and_what_would_route_parts_of_blocks_is_refused() -> None:
    config = read_config(RELEASED["llada2-mini"] | {"expert_capacity": 48, "block_size": 32})
    assert (config.expert_capacity, config.routing_block, config.n_group) == (48, 32, 1)
    assert read_config(RELEASED["llada2-mini"] | {"expert_capacity": None}).n_group == 8
    with pytest.raises(InputError, match="expert_capacity 4 must be from top_k 8 to num_experts 256"):
        read_config(RELEASED["llada2-mini"] | {"expert_capacity": 4})
    case = oracles.case("llada2_moe")
    few = dataclasses.replace(case.config, n_group=1, topk_group=1, expert_capacity=5, routing_block=8)
    lm = LM(Backbone(few), case.params, None, "x")
    with pytest.raises(InputError, match="routes the tokens of a block together, so that each forward reads all"):
        jd.decode(lm, [[3, 4, 5]], cache="prefix", max_new=8)
    out = jd.decode(lm, [[3, 4, 5], [9, 8, 7, 6, 5]], policy="threshold,tau=0.1", max_new=8, stop=False)
    alone = jd.decode(lm, [[9, 8, 7, 6, 5]], policy="threshold,tau=0.1", max_new=8, stop=False)
    assert out.tokens[1].tolist() == alone.tokens[0].tolist()
