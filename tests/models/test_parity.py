"""Every family against an independent implementation with loud weights, in a ragged batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.models import oracles


@pytest.mark.parametrize("name", oracles.RECIPES)
def test_logits_of_a_ragged_batch_equal_the_oracle(name: str, record_property) -> None:
    case, data = oracles.case(name), oracles.batch()
    ours, theirs = oracles.our_logits(case, data), oracles.oracle_logits(case, data)
    record_property("largest_difference", float(np.abs(ours - theirs)[data.valid].max()))
    assert np.isfinite(ours).all()
    oracles.assert_close(ours[data.valid], theirs[data.valid])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada", "dream", "sdar", "llama", "gemma3_text", "llada_moe", "llada2_moe"])
def test_bfloat16_deviates_from_float32_no_more_than_torch_does(name: str) -> None:
    case, data = oracles.case(name), oracles.batch()
    exact = oracles.oracle_logits(case, data)[data.valid]
    theirs = oracles.oracle_logits(case, data, torch.bfloat16)[data.valid]
    narrow = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if "router_bias" in str(path) else leaf.astype(jnp.bfloat16), case.params
    )
    # both sides round the same weights, so the deviation of the weights themselves is shared
    ours = oracles.our_logits(case, data, narrow)[data.valid]
    # a tie in the router may flip an expert, which moves a few logits far: mixtures are judged by their mean
    reduce = np.mean if case.config.num_experts else np.max
    assert reduce(np.abs(ours - exact)) <= 1.5 * reduce(np.abs(theirs - exact))
