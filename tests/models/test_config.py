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
        ({"num_heads": 0}, "num_heads=0: must be a whole number from 1"),
        ({"rope": RopeConfig(theta=1e4, rotary_dim=3)}, "rotary_dim 3 must be even"),
        ({"rope": RopeConfig(theta=1e4, rotary_dim=10)}, "rotary_dim 10 must be in 1..head_dim 8"),
        ({"attention": "block_causal"}, "needs block_size > 0"),
        ({"attention": "diagonal"}, "attention='diagonal': must be one of full"),
        ({"activation": "tanh"}, "activation='tanh': must be one of silu"),
        ({"noise": "mask", "tokens": TokenIds(mask=61)}, "tokens.mask 61 is outside 0..60"),
        ({"noise": "mask", "tokens": TokenIds()}, "needs tokens.mask"),
        (MOE | {"n_group": 3}, "num_experts 8 is no multiple of n_group 3"),
        (MOE | {"n_group": 4, "topk_group": 1}, r"top_k 3 must be in 1..2"),
        (MOE | {"expert_size": 0}, "needs expert_size > 0"),
        (MOE | {"gated_mlp": False}, "experts are gated"),
        ({"layer_kinds": ("local",)}, "layer_kinds has 1 entries"),
        ({"layer_kinds": ("local",) * 3}, "sliding_window > 0"),
        ({"layer_kinds": ("far",) * 3}, r"layer_kinds\[0\]='far': must be one of global, local"),
        ({"num_layers": 10**9}, "num_layers=1000000000: must be"),
        ({"vocab_size": 10**8}, "vocab_size=100000000: must be"),
        ({"norm_eps": 0.0}, "norm_eps=0.0: must be a number above 0"),
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
        {"theta": 1e4, "kind": "longrope"},
        {"theta": 1.0, "kind": "yarn"},
        {"theta": 1e4, "kind": "yarn", "beta_slow": 33.0},
        {"theta": 1.0, "proportion": 2.0},
    ):
        with pytest.raises(InputError):
            RopeConfig(**wrong)


def test_attention_shape_of_global_layers() -> None:
    config = CONFIGS["prefix_canvas"]
    assert config.attention_shape("local") == (2, 8) and config.attention_shape("global") == (1, 16)
    assert config.local_shapes_differ and not CONFIGS["local_global"].local_shapes_differ
    assert dataclasses.replace(BASE, **BLOCK).kinds == ("global",) * 3


HOSTILE = (
    None, [], [1], {}, "x", "", "3", True, 0, -1, 0.5, 2**40, 10**30, 10**5000, float("inf"), float("nan"), 1e300, 5e-324,
)  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_no_field_of_a_file_gets_by_with_what_it_is_not(name: str) -> None:
    """In any of the three objects; what passes is a configuration that is hashable and equal to what it writes."""
    values = CONFIGS[name].to_json()
    places = [((), key) for key in values] + [
        ((part,), key) for part in ("rope", "rope_local", "tokens") for key in values[part] or ()
    ]
    for path, key in places:
        for value in HOSTILE:
            wrong = values | ({key: value} if not path else {path[0]: values[path[0]] | {key: value}})
            try:
                config = ModelConfig.from_json(wrong)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                assert key in str(error) or value in (0, 1), str(error)  # which may contradict another field
                continue
            assert ModelConfig.from_json(config.to_json()) == config and hash(config) is not None
            json.dumps(config.to_json(), allow_nan=False)


def test_ids_lie_inside_the_vocabulary() -> None:
    for name, wrong in {
        "pad": 61,
        "bos": 2**40,
        "eos": (3, 61),
        "tokenizer_size": 0,
        "mask": -1,
    }.items():
        with pytest.raises(InputError, match=name):
            change(tokens=TokenIds(**({"mask": 1} | {name: wrong})))


def test_blocks_may_be_stated_where_there_are_any() -> None:
    assert CONFIGS["block"].in_blocks(7).block_size == 7
    with pytest.raises(InputError, match=r"block_size=7 means nothing: .* has full attention; leave it out"):
        BASE.in_blocks(7)
