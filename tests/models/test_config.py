import dataclasses
import json

import pytest

from jaxdlm.errors import InputError
from jaxdlm.models import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.registry import RELEASED, released_config
from tests.models.configs import BASE, BLOCK, CONFIGS, MOE, change


@pytest.mark.parametrize("config", [*CONFIGS.values(), *map(released_config, RELEASED)])
def test_json_is_an_exact_inverse(config: ModelConfig) -> None:
    text = json.dumps(config.to_json(), allow_nan=False)
    again = ModelConfig.from_json(json.loads(text))
    assert again == config and hash(again) == hash(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads 4 is no multiple of 3"),
        ({"num_heads": 0}, "num_heads must be positive"),
        ({"rope": RopeConfig(theta=1e4, rotary_dim=3)}, "rotary_dim 3 must be even"),
        ({"rope": RopeConfig(theta=1e4, rotary_dim=10)}, "rotary_dim 10 must be in 1..head_dim 8"),
        ({"attention": "block_causal"}, "needs block_size > 0"),
        ({"attention": "diagonal"}, "attention 'diagonal' is unknown"),
        ({"activation": "tanh"}, "activation 'tanh' is unknown"),
        ({"noise": "mask", "tokens": TokenIds(mask=61)}, "tokens.mask 61 is outside 0..60"),
        ({"noise": "mask", "tokens": TokenIds()}, "needs tokens.mask"),
        (MOE | {"n_group": 3}, "num_experts 8 is no multiple of n_group 3"),
        (MOE | {"n_group": 4, "topk_group": 1}, r"top_k 3 must be in 1..2"),
        (MOE | {"expert_size": 0}, "needs expert_size > 0"),
        (MOE | {"gated_mlp": False}, "experts are gated"),
        ({"layer_kinds": ("local",)}, "layer_kinds has 1 entries"),
        ({"layer_kinds": ("local",) * 3}, "sliding_window > 0"),
        ({"layer_kinds": ("far",) * 3}, "'global' or 'local'"),
        ({"num_layers": 10**9}, "num_layers 1000000000 is outside"),
        ({"vocab_size": 10**8}, "vocab_size 100000000 is outside"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
    ],
)
def test_each_wrong_field_is_named(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        change(**fields)


def test_unknown_and_missing_keys_are_named() -> None:
    values = BASE.to_json()
    with pytest.raises(InputError, match="unknown key depth"):
        ModelConfig.from_json(values | {"depth": 3})
    with pytest.raises(InputError, match="hidden_size"):
        ModelConfig.from_json({key: value for key, value in values.items() if key != "hidden_size"})
    with pytest.raises(InputError, match="RopeConfig: unknown key base"):
        ModelConfig.from_json(values | {"rope": {"theta": 1.0, "base": 2}})


def test_rope_values_are_checked() -> None:
    for wrong in (
        {"theta": 0.0},
        {"theta": 1e4, "factor": 0.0},
        {"theta": 1e4, "kind": "yarn"},
        {"theta": 1.0, "proportion": 2.0},
    ):
        with pytest.raises(InputError):
            RopeConfig(**wrong)


def test_attention_shape_of_global_layers() -> None:
    config = CONFIGS["prefix_canvas"]
    assert config.attention_shape("local") == (2, 8) and config.attention_shape("global") == (1, 16)
    assert config.local_shapes_differ and not CONFIGS["local_global"].local_shapes_differ
    assert dataclasses.replace(BASE, **BLOCK).kinds == ("global",) * 3
