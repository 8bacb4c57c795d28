"""Weights that other tools have quantised: read as the formula of each layout, and what does not fit is named."""

import json

import ml_dtypes
import numpy as np
import pytest

import jaxdlm as jd
from checkpoints_convert.__main__ import main
from jaxdlm.checkpoint import load_params, open_folder
from jaxdlm.checkpoint.safetensors import write_safetensors
from jaxdlm.checkpoint.tensors import open_tensors
from jaxdlm.errors import InputError
from tests.checkpoint.packers import LAYOUTS, MATRICES, NF4, checkpoint, folders
from tests.convert.folders import assert_trees_equal, hub_folder

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_are_those_of_the_formula(name, tmp_path):
    """Whole, some rows of them, and as the leaves of a model."""
    packed, plain = folders(tmp_path, name)
    source, expected = open_folder(packed), open_tensors(plain)
    assert set(source.tensors.infos) == set(expected.infos)
    assert source.dtype == "float32" and any("are dequantised as they are read" in note for note in source.notes)
    for part, (rows, _) in MATRICES.items():
        key = f"model.layers.1.{part}.weight"
        weight = expected.read(key)
        read = source.tensors.read(key)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, weight, rtol=1e-6, atol=1e-7)
        for a, b in ((0, 1), (5, 23), (rows - 3, rows)):
            np.testing.assert_array_equal(source.tensors.read(key, (a, b)), read[a:b])
    ours, theirs = load_params(source), load_params(open_folder(plain))
    for a, b in zip(*(np.asarray(tree["segments"][0][0]["wo"]) for tree in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_packed_folder_loads_converts_and_goes_back_as_plain_weights(tmp_path):
    packed, _ = folders(tmp_path, "awq")
    lm = jd.load(packed, dtype="float32")
    out = jd.decode(lm, [[3, 4, 5]], policy="autoregressive", max_new=2)
    assert main([str(packed), str(tmp_path / "out"), "--quiet", "--verify", "--dtype", "float32"]) == 0
    assert_trees_equal(load_params(open_folder(tmp_path / "out")), lm.params)
    assert jd.decode(jd.load(tmp_path / "out"), [[3, 4, 5]], policy="autoregressive", max_new=2).tokens.tolist() == (
        out.tokens.tolist()
    )
    assert main([str(tmp_path / "out"), str(tmp_path / "back"), "--export", "--quiet"]) == 0
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    assert_trees_equal(load_params(open_folder(tmp_path / "back")), lm.params)


def test_fused_experts_of_fp8_have_blocks_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((3, 40, 16)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.uniform(1, 2, (3, 2, 1)).astype(np.float32)
    tensors = {"x.experts.gate_up_proj": codes, "x.experts.gate_up_proj_scale_inv": scale}
    folder = hub_folder(tmp_path, tensors, {})
    from jaxdlm.checkpoint.packed.schemes import open_packed

    read, _ = open_packed({"quant_method": "fp8", "weight_block_size": [32, 32]}, open_tensors(folder))
    expected = codes.astype(np.float32) * np.repeat(scale, 32, axis=1)[:, :40]
    np.testing.assert_array_equal(read.read("x.experts.gate_up_proj"), expected)
    np.testing.assert_array_equal(read.read("x.experts.gate_up_proj", (1, 2)), expected[1:2])


def lost(key):
    return lambda tensors, settings: tensors.pop(key)


def changed(key, change):
    def apply(tensors, settings):
        tensors[key] = change(tensors[key])

    return apply


def stated(**values):
    return lambda tensors, settings: settings.update(values)


def at(index, value):
    def apply(array):
        array = array.copy()
        array[index] = value
        return array

    return apply


STATE = f"{Q}.weight.quant_state.bitsandbytes__nf4"
BAD = {  # layout, what is done to it, the refusal; those after "read" are seen when the tensor is
    "no scale": ("fp8", lost(f"{Q}.weight_scale_inv"), "q_proj.weight': is quantised, and .*weight_scale_inv or .* is not there"),
    "another block": ("fp8", stated(weight_block_size=[64, 64]), "has a shape that does not go with blocks of 64 x 64"),
    "a block of one size": ("fp8", stated(weight_block_size=[64]), "weight_block_size=.64. must be two sizes"),
    "no config": ("fp8", lambda tensors, settings: settings.clear(), "holds F8_E4M3, of which config.json says nothing under"),
    "another method": ("fp8", stated(quant_method="hqq"), "quant_method='hqq' is not supported .one of fp8, "),
    "no weight of it": ("fp8", stated(quant_method="awq", bits=4, group_size=32), "no weight that is quantised as"),
    "NVFP4": ("modelopt", stated(quant_algo="NVFP4"), "quant_algo='NVFP4' is not supported"),
    "no scales": ("awq", lost(f"{Q}.scales"), "q_proj.qweight': is quantised, and .*q_proj.scales is not there"),
    "no zero points": ("awq", lost(f"{Q}.qzeros"), "and .*q_proj.qzeros is not there"),
    "another group": ("awq", stated(group_size=16), "scales': has a shape that does not go with groups of 16 inputs .expected"),
    "a group of no divisor": ("awq", stated(group_size=40), "qweight': has 96 inputs, no multiple of group_size 40"),
    "no group": ("awq", stated(group_size=0), "group_size=0: must be a number of inputs"),
    "no bits": ("awq", stated(bits=None), "quantization_config has no bits; add it"),
    "bits": ("awq", stated(bits=3), "bits=3 is not supported .one of 4"),
    "a group in words": ("awq", stated(group_size="32"), "quantization_config.group_size='32': must be a whole number"),
    "gemv": ("awq", stated(version="gemv"), "version='gemv' is not supported"),
    "words of 16 bits": ("gptq", changed(f"{Q}.qweight", lambda x: x.astype(np.int16)), "q_proj.qweight': holds I16"),
    "3 bits": ("gptq", stated(bits=3), "bits=3 is not supported"),
    "marlin": ("gptq", stated(checkpoint_format="marlin"), "checkpoint_format='marlin' is not supported"),
    "read: a zero point": ("gptq", changed(f"{Q}.qzeros", at((0, 0), -1)), "qzeros': holds the zero point 16, outside 0..15"),
    "read: a group": ("gptq", changed(f"{Q}.g_idx", at(5, 2)), "q_proj.g_idx': holds the group 2, outside 0..1"),
    "read: no number": ("gptq", changed(f"{Q}.scales", at((1, 3), np.nan)), "scales': holds a scale that is not finite"),
    "no record": ("bitsandbytes", lost(STATE), "absmax': is quantised, and .*bitsandbytes__nf4 or .*fp4 is not there"),
    "no absmax": ("bitsandbytes", lost(f"{Q}.weight.absmax"), "q_proj.weight': is quantised, and .*absmax is not there"),
    "no second absmax": ("bitsandbytes", lost(f"{Q}.weight.nested_absmax"), "and .*nested_absmax is not there"),
    "a record of nonsense": ("bitsandbytes", changed(STATE, lambda x: x[:-5]), "is not (valid )?JSON|JSON"),
    "a record of another shape": (
        "bitsandbytes", changed(STATE, lambda x: np.frombuffer(x.tobytes().replace(b"[64, 64]", b"[64, 65]"), np.uint8)),
        "q_proj.weight': has a shape that does not go with .64, 65. of"),
    "a record of another block": (
        "bitsandbytes", changed(STATE, lambda x: np.frombuffer(x.tobytes().replace(b": 64,", b": 32,"), np.uint8)),
        "absmax': has a shape that does not go with blocks of 32"),
    "another map": ("bitsandbytes", changed(f"{Q}.weight.quant_map", lambda x: np.append(x, NF4)), "does not go with 4 bits"),
    "no rows": ("bitsandbytes, 8 bits", lost(f"{Q}.SCB"), "and .*q_proj.SCB is not there"),
    "two schemes": (
        "int-quantized", lambda tensors, settings: settings["config_groups"].update(b={"weights": {"num_bits": 4}}),
        "must hold one scheme of weights: 2 are there"),
    "another format": ("int-quantized", stated(format="nvfp4-pack-quantized"), "format='nvfp4-pack-quantized' is not supported"),
    "6 bits": ("pack-quantized", lambda tensors, settings: settings["config_groups"]["group_0"]["weights"].update(num_bits=6),
               "num_bits=6 is not supported .one of 4, 8, 2"),
    "a cache of keys": ("int-quantized", stated(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme=.* is not supported"),
    "no zero points of int8": ("int-quantized", lost(f"{Q}.weight_zero_point"), "weight_zero_point is not there"),
    "no shape": ("pack-quantized", lost(f"{Q}.weight_shape"), "weight_packed': is quantised, and .*weight_shape is not there"),
    "another shape": ("pack-quantized", changed(f"{Q}.weight_shape", at(1, 96)), "weight_packed': has a shape that does not go"),
    "not in config.json's sizes": ("gptq", changed(f"{Q}.qweight", lambda x: x[:4]), "no multiple of|does not go with"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_by_name(name, tmp_path):
    layout, change, message = BAD[name]
    tensors, _, config = checkpoint(layout)
    settings = json.loads(json.dumps(config["quantization_config"]))
    change(tensors, settings)
    folder = hub_folder(tmp_path, tensors, config | {"quantization_config": settings})
    with pytest.raises(InputError, match=message) as caught:
        source = open_folder(folder)
        assert name.startswith("read: "), "it is seen before anything is read"
        source.tensors.read(f"{Q}.weight")
    assert "\n" not in str(caught.value)


def test_a_zero_point_of_int8_that_fewer_bits_do_not_have_is_refused(tmp_path):
    tensors, _, config = checkpoint("int-quantized")
    settings = config["quantization_config"]
    settings = settings | {
        "config_groups": {"g": {"weights": {"num_bits": 4, "strategy": "channel", "symmetric": False}}}
    }
    source = open_folder(hub_folder(tmp_path, tensors, config | {"quantization_config": settings}))
    with pytest.raises(InputError, match=r"weight_zero_point': holds the zero point -?\d+, outside -8..7"):
        for name in source.tensors.infos:
            source.tensors.read(name)


def test_a_shard_keeps_what_it_is_named(tmp_path):
    """FP8 is written and read bit for bit."""
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2).reshape(16, 16)
    write_safetensors(tmp_path / "model.safetensors", {"x": codes})
    read = open_tensors(tmp_path).scaled().read("x", (2, 5))
    assert read.dtype == codes.dtype and np.array_equal(read.view(np.uint8), codes[2:5].view(np.uint8))
