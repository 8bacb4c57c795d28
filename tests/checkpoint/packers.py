"""Weights as other tools store them: drawn at random as codes, zero points and scales, and packed bit by bit.

Each packer gives (stored tensors by what stands behind the stem of the name, the weight by its formula). What the bits
mean is written here from the layouts' descriptions; nothing of the reader is used.
"""

import json

import ml_dtypes
import numpy as np

from tests.convert.folders import hub_folder

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 48, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64, "rope_theta": 1e4, "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
MATRICES = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64), "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96),
}  # fmt: skip
E4M3 = ml_dtypes.float8_e4m3fn
NF4 = np.array(
    [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302, 0.2461123,
     0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0], np.float32)  # fmt: skip


def word(values, bits: int) -> int:
    """Whole numbers in a 32-bit word, the first in the lowest bits."""
    total = sum(int(value) << bits * at for at, value in enumerate(values))
    return total - (1 << 32 if total >= 1 << 31 else 0)


def words(values: np.ndarray, bits: int) -> np.ndarray:
    """[..., n] of whole numbers as int32 [..., n · bits / 32], padded with zeros."""
    count = 32 // bits
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % count)])
    flat = padded.reshape(-1, count)
    return np.array([word(row, bits) for row in flat], np.int32).reshape(*padded.shape[:-1], -1)


def blocks(rng, shape, r=32, c=24, name="weight_scale_inv", dtype=np.float32):
    codes = rng.standard_normal(shape).astype(np.float32).astype(E4M3)
    grid = tuple(-(-size // unit) for size, unit in zip(shape, (r, c), strict=True))
    scale = rng.uniform(0.01, 0.1, grid).astype(dtype)
    i, j = np.indices(shape)
    return {"weight": codes, name: scale}, codes.astype(np.float32) * scale.astype(np.float32)[i // r, j // c]


def one_scale(rng, shape):
    stored, weight = blocks(rng, shape, *shape, name="weight_scale")
    return stored | {
        "weight_scale": stored["weight_scale"].reshape(()),
        "input_scale": np.float32(2.0).reshape(()),
    }, weight


def row_scales(rng, shape):
    return blocks(rng, shape, 1, shape[1], "weight_scale", np.dtype(ml_dtypes.bfloat16))


def awq(rng, shape, group=32):
    outputs, inputs = shape
    codes, zeros = rng.integers(0, 16, (inputs, outputs)), rng.integers(0, 16, (inputs // group, outputs))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    of = np.arange(inputs) // group
    mixed = lambda x: words(x.reshape(len(x), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(x.shape), 4)  # noqa: E731
    weight = ((codes - zeros[of]) * scales.astype(np.float32)[of]).T
    return {"qweight": mixed(codes), "qzeros": mixed(zeros), "scales": scales}, weight.astype(np.float32)


def gptq(rng, shape, bits=4, group=32, shuffled=True, plus_one=1):
    outputs, inputs = shape
    most = 1 << bits
    codes, zeros = rng.integers(0, most, shape), rng.integers(1, most, (inputs // group, outputs))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    of = np.arange(inputs) // group
    of = rng.permutation(of) if shuffled else of
    weight = (codes - zeros.T[:, of]) * scales.astype(np.float32).T[:, of]
    stored = {"qweight": words(codes, bits).T.copy(), "qzeros": words(zeros - plus_one, bits), "scales": scales}
    return stored | ({"g_idx": of.astype(np.int32)} if shuffled else {}), weight.astype(np.float32)


def packed(rng, shape, bits=4, group=32, symmetric=False):
    """compressed-tensors."""
    outputs, inputs = shape
    low, groups = 1 << bits - 1, inputs // group
    codes, zeros = rng.integers(-low, low, shape), rng.integers(-low, low, (outputs, groups))
    zeros = np.zeros_like(zeros) if symmetric else zeros
    scales = rng.uniform(0.01, 0.1, (outputs, groups)).astype(ml_dtypes.bfloat16)
    of = np.arange(inputs) // group
    stored = {
        "weight_packed": words(codes + low, bits),
        "weight_scale": scales,
        "weight_shape": np.array(shape, np.int64),
    }
    if not symmetric:
        stored["weight_zero_point"] = words((zeros + low).T, bits).T.copy()
    return stored, ((codes - zeros[:, of]) * scales.astype(np.float32)[:, of]).astype(np.float32)


def int8(rng, shape, zero=True):
    codes = rng.integers(-128, 128, shape).astype(np.int8)
    scale, zeros = rng.uniform(0.001, 0.01, (shape[0], 1)).astype(np.float32), rng.integers(-9, 9, (shape[0], 1))
    stored = {"weight": codes, "weight_scale": scale} | ({"weight_zero_point": zeros.astype(np.int8)} if zero else {})
    return stored, ((codes.astype(np.int32) - zeros * zero) * scale).astype(np.float32)


def scb(rng, shape):
    """bitsandbytes, 8 bits."""
    codes, largest = rng.integers(-127, 128, shape).astype(np.int8), rng.uniform(0.1, 1, shape[0]).astype(np.float32)
    return {"weight": codes, "SCB": largest}, codes.astype(np.float32) * (largest / np.float32(127))[:, None]


def bits4(rng, shape, nested=True, kind="nf4", block=64, outer=16):
    """bitsandbytes, 4 bits."""
    size = shape[0] * shape[1]
    codes = rng.integers(0, 16, size)
    data = np.array([int(a) << 4 | int(b) for a, b in zip(codes[::2], codes[1::2], strict=True)], np.uint8)
    about = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    stored = {"weight": data.reshape(-1, 1), "weight.quant_map": NF4}
    if nested:
        inner = rng.integers(0, 256, -(-size // block)).astype(np.uint8)
        table = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        second = rng.uniform(0.1, 1, -(-len(inner) // outer)).astype(np.float32)
        absmax = table[inner] * second[np.arange(len(inner)) // outer] + np.float32(0.25)
        stored |= {"weight.absmax": inner, "weight.nested_absmax": second, "weight.nested_quant_map": table}
        about |= {"nested_blocksize": outer, "nested_offset": 0.25, "nested_dtype": "float32"}
    else:
        absmax = stored["weight.absmax"] = rng.uniform(0.1, 1, -(-size // block)).astype(np.float32)
    stored[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    return stored, (NF4[codes] * absmax[np.arange(size) // block]).reshape(shape).astype(np.float32)


def scheme(form: str, **weights):
    return {
        "quant_method": "compressed-tensors", "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"],
    }  # fmt: skip


LAYOUTS = {  # packer, quantization_config
    "fp8": (blocks, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 24], "activation_scheme": "dynamic"}),
    "fp8, one scale": (one_scale, {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8, rows": (row_scales, {"quant_method": "fbgemm_fp8"}),
    "modelopt": (one_scale, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}),
    "gptq, 8 bits": (lambda rng, shape: gptq(rng, shape, 8, shuffled=False),
                     {"quant_method": "gptq", "bits": 8, "group_size": 32}),
    "gptq, v2": (lambda rng, shape: gptq(rng, shape, 2, shape[1], False, 0),
                 {"quant_method": "gptq", "bits": 2, "group_size": -1, "checkpoint_format": "gptq_v2"}),
    "bitsandbytes": (bits4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "bitsandbytes, plain": (lambda rng, shape: bits4(rng, shape, False, "fp4"), {"quant_method": "bitsandbytes"}),
    "bitsandbytes, 8 bits": (scb, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "float-quantized": (lambda rng, shape: blocks(rng, shape, 32, 24, "weight_scale"),
                        scheme("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[32, 24])),
    "float-quantized, rows": (row_scales, scheme("float-quantized", num_bits=8, type="float", strategy="channel")),
    "int-quantized": (int8, scheme("int-quantized", num_bits=8, strategy="channel", symmetric=False)),
    "pack-quantized": (packed, scheme("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False)),
    "pack-quantized, 8 bits": (lambda rng, shape: packed(rng, shape, 8, shape[1], True),
                               scheme("pack-quantized", num_bits=8, strategy="channel", symmetric=True)),
}  # fmt: skip
LAYERS = 2


def checkpoint(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    """(tensors as stored, the same as plain weights, config.json)."""
    packer, settings = LAYOUTS[name]
    rng = np.random.default_rng(7)
    plain = {"model.embed_tokens.weight": (48, 64), "model.norm.weight": (64,), "lm_head.weight": (48, 64)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}."
        plain |= {f"{stem}{part}_layernorm.weight": (64,) for part in ("input", "post_attention")}
        plain |= {f"{stem}self_attn.{part}_norm.weight": (16,) for part in "qk"}
    stored = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in plain.items()}
    weights = dict(stored)
    for layer in range(LAYERS):
        for part, shape in MATRICES.items():
            stem = f"model.layers.{layer}.{part}"
            parts, weights[f"{stem}.weight"] = packer(rng, shape)
            stored |= {f"{stem}.{key}": array for key, array in parts.items()}
    return stored, weights, CONFIG | {"quantization_config": settings}


def folders(path, name: str):
    """(the packed folder, the same with plain weights)."""
    stored, weights, config = checkpoint(name)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    return hub_folder(path / "packed", stored, config), hub_folder(path / "plain", weights, plain)
