import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.errors import InputError
from jaxdlm.models import abstract_params, count_params, init_params, param_specs
from jaxdlm.models.params import is_spec, named_specs
from jaxdlm.models.registry import released_config
from tests.marks import exhaustive
from tests.models.configs import CONFIGS, change

# as published, or counted from the index of the release
COUNTS = {
    "llada-8b": 8_015_581_184,
    "llada-1.5-8b": 8_015_581_184,
    "llada-moe-7b": 7_356_880_896,
    "llada2-mini": 16_255_643_392,
    "dream-7b": 7_615_616_512,
    "fast-dllm-v2-7b": 15_231_233_024 // 2,
    "sdar-4b": 8_822_848_512 // 2,
    "sdar-8b": 16_381_470_720 // 2,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "llama3.2-1b": 1_235_814_400,
    "llama3.1-8b": 8_030_261_248,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_released_models(name: str) -> None:
    assert count_params(released_config(name)) == COUNTS[name]


def test_count_of_diffusion_gemma_s_text_part() -> None:
    assert round(count_params(released_config("diffusion-gemma-26b")) / 1e9, 2) == 25.25


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("init", ["train", "normal", "loud"])
def test_random_parameters_have_the_declared_shapes(name: str, init: str) -> None:
    config = CONFIGS[name]
    params = jax.eval_shape(lambda key: init_params(config, key, init=init, dtype="bfloat16"), jax.random.key(0))
    assert params == abstract_params(config, "bfloat16")
    specs = jax.tree.leaves(param_specs(config), is_leaf=is_spec)
    assert all(len(spec.shape) == len(spec.axes) for spec in specs)


def test_router_bias_is_always_float32() -> None:
    params = abstract_params(CONFIGS["grouped_moe"], "bfloat16")
    assert params["segments"][1][0]["router_bias"].dtype == jnp.float32
    assert params["segments"][1][0]["e_up"].dtype == jnp.bfloat16


@pytest.mark.slow
def test_training_init_scales() -> None:
    config = change(hidden_size=128, intermediate_size=256, vocab_size=500, num_layers=8)
    params = init_params(config, jax.random.key(0))
    layer = params["segments"][0][0]
    assert float(params["embed"].std()) == pytest.approx(1, rel=0.05)
    assert float(layer["wq"].std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(layer["wo"].std()) == pytest.approx((4 * 8) ** -0.5 / 16**0.5, rel=0.05)
    assert float(layer["down"].std()) == pytest.approx(256**-0.5 / 16**0.5, rel=0.05)
    assert bool(jnp.all(layer["attn_norm"] == 1))
    small = init_params(config, jax.random.key(0), init="normal", std=0.01)
    assert float(small["embed"].std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.slow
def test_a_leaf_depends_on_key_and_path_only() -> None:
    one = init_params(CONFIGS["full"], jax.random.key(0))
    other = init_params(change(qk_norm=True, tie_embeddings=True), jax.random.key(0))
    np.testing.assert_array_equal(one["segments"][0][0]["wq"], other["segments"][0][0]["wq"])
    again = init_params(CONFIGS["full"], jax.random.key(1))
    assert float(jnp.abs(one["embed"] - again["embed"]).max()) > 0.1
    assert float(jnp.abs(one["segments"][0][0]["wk"] - one["segments"][0][0]["wv"]).max()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local_global", *map(exhaustive, ("grouped_moe", "prefix_canvas"))])
def test_loud_leaves_are_far_from_neutral(name: str) -> None:
    params = init_params(CONFIGS[name], jax.random.key(0), loud=True)
    for leaf in map(np.asarray, jax.tree.leaves(params)):
        assert np.abs(leaf - 1).max() > 0.01 and np.abs(leaf).max() > 0.01


def test_names() -> None:
    names = [name for name, _ in named_specs(CONFIGS["grouped_moe"])]
    assert "embed" in names and "segments/0/0/gate" in names and "segments/1/0/e_gate" in names
    assert len(names) == len(set(names))


def test_unknown_init() -> None:
    with pytest.raises(InputError, match="init 'zeros' is unknown"):
        init_params(CONFIGS["full"], jax.random.key(0), init="zeros")
