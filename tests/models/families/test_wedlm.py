"""WeDLM: masks behind filled tokens in storage, each column under its own position, against Qwen3 and Qwen2."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxdlm as jd
from jaxdlm.core.model import Past
from jaxdlm.models import Backbone
from jaxdlm.models.families.wedlm import FAMILY
from jaxdlm.models.registry import detect, read_config
from tests.models import oracles
from tests.models.reading import params_of

CASES = ("wedlm", "wedlm biases")
PREFIX, ORDER = 9, np.array([1, 3, 4, 0, 2, 5])  # filled columns of a window before its masks, both ascending


def _given() -> tuple[np.ndarray, np.ndarray]:
    """(ids, positions) of a prefix and a window in order of storage."""
    ids = np.random.default_rng(3).integers(3, oracles.MASK_ID, (2, PREFIX + len(ORDER))).astype(np.int32)
    ids[:, PREFIX + 3 :] = oracles.MASK_ID
    position = np.concatenate([np.arange(PREFIX), PREFIX + ORDER]).astype(np.int32)
    return ids, np.broadcast_to(position, ids.shape)


def _oracle(case: oracles.Case, ids: np.ndarray, position: np.ndarray) -> np.ndarray:
    tokens, places = (torch.from_numpy(x.astype(np.int64)) for x in (ids, position))
    seen = torch.ones_like(tokens)  # without it a jump of positions begins another text
    with torch.no_grad():
        return case.oracle(tokens, attention_mask=seen, position_ids=places).logits.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_permuted_window_is_read_as_the_oracle_reads_it(name: str) -> None:
    """In one call, and behind a stored prefix among whose columns there is one of the window, left from before."""
    case = oracles.case(name)
    ids, position = _given()
    expected = _oracle(case, ids, position)
    model, params = Backbone(case.config), params_of(case.config, case.files)
    valid = jnp.ones(ids.shape, bool)
    whole = model.apply(params, jnp.asarray(ids), jnp.asarray(position), valid)
    np.testing.assert_allclose(model.head(params, whole.hidden), expected, atol=1e-4)
    cut = slice(None, PREFIX + 1)
    first = model.apply(params, jnp.asarray(ids[:, cut]), jnp.asarray(position[:, cut]), valid[:, cut])
    past = Past(first.kv, jnp.asarray(position[:, cut]), valid[:, cut])
    rest = slice(PREFIX, None)
    later = model.apply(params, jnp.asarray(ids[:, rest]), jnp.asarray(position[:, rest]), valid[:, rest], past)
    np.testing.assert_allclose(model.head(params, later.hidden), expected[:, rest], atol=1e-4)
    other = Backbone(dataclasses.replace(case.config, order="position"))
    hidden = other.apply(params, jnp.asarray(ids), jnp.asarray(position), valid).hidden
    assert np.abs(np.asarray(model.head(params, hidden)) - expected)[:, PREFIX:].max() > 1e-2


def test_files_must_say_which_network_they_hold() -> None:
    values = FAMILY.released["wedlm-8b"]
    assert detect(values).name == "wedlm"
    for key in ("qk_norm", "attention_bias"):
        with pytest.raises(jd.InputError, match=f"no {key}"):
            read_config({name: value for name, value in values.items() if name != key})
    config = read_config(values)
    assert (config.order, config.prediction, config.tokens.mask, config.qk_norm) == ("storage", "same", 151665, True)
    sizes = [int(np.prod(entry.source_shape)) for entry in FAMILY.tensors(config)]
    assert (len(sizes), sum(sizes)) == (399, 8_190_735_360)
