"""GGUF files for tests: bytes by the format's own rules, and models laid out as llama.cpp lays them out.

Nothing of `jaxdlm.checkpoint.gguf` is used: names come from the package gguf, numbers are moved as its readers expect them.
"""

import pathlib
import struct
from typing import Any

import gguf
import ml_dtypes
import numpy as np

from jaxdlm.models import registry
from jaxdlm.models.hub_config import Hints

CODES = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "bool": 7,
    "str": 8,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
PACKED = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "B", "u64": "Q",
          "i64": "q", "f64": "d"}  # fmt: skip
TYPES = {"F32": 0, "F16": 1, "BF16": 30}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(kind: str, content: Any) -> bytes:
    """The bytes of a value behind its key: kind "u32", "str", ..., or an array of them as "[u32]"."""
    if kind.startswith("["):
        item = kind[1:-1]
        body = b"".join(text(x) if item == "str" else struct.pack("<" + PACKED[item], x) for x in content)
        return struct.pack("<IIQ", 9, CODES[item], len(content)) + body
    body = text(content) if kind == "str" else struct.pack("<" + PACKED[kind], content)
    return struct.pack("<I", CODES[kind]) + body


def guess(content: Any) -> tuple[str, Any]:
    """A value with its kind: (kind, value) as it is, Python's own types by what they are."""
    if isinstance(content, tuple):
        return content
    if isinstance(content, list):
        kinds = {str: "str", float: "f32", bool: "bool", int: "i32"}
        return f"[{kinds[type(content[0])]}]", content
    return {bool: "bool", int: "u32", float: "f32", str: "str"}[type(content)], content


def entry(name: str, shape: tuple[int, ...], code: int, offset: int) -> bytes:
    """A tensor in the header; `shape` in NumPy's order."""
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1]) + struct.pack("<IQ", code, offset)


def stored(array: np.ndarray, kind: str) -> tuple[int, bytes]:
    """(number of the type, bytes) of an array in that type."""
    if kind == "BF16":
        return TYPES[kind], array.astype(ml_dtypes.bfloat16).tobytes()
    if kind in TYPES:
        return TYPES[kind], array.astype("<f4" if kind == "F32" else "<f2").tobytes()
    code = gguf.GGMLQuantizationType[kind]
    return int(code), gguf.quantize(np.ascontiguousarray(array, np.float32), code).tobytes()


def write(
    path: pathlib.Path, metadata: dict[str, Any], tensors: dict[str, tuple[np.ndarray, str]], *, version: int = 3,
    alignment: int = 32, more: bytes = b"",
) -> pathlib.Path:  # fmt: skip
    """A file of these keys and tensors, each (array, type)."""
    heads, body = [], b""
    for name, (array, kind) in tensors.items():
        code, data = stored(array, kind)
        heads.append(entry(name, array.shape, code, len(body)))
        body += data + b"\0" * (-len(data) % alignment)
    keys = b"".join(text(key) + value(*guess(content)) for key, content in metadata.items())
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + keys + b"".join(heads) + more
    path.write_bytes(head + b"\0" * (-len(head) % alignment) + body)
    return path


# -------------------------------------------------------------------------------------------------------------- models

GREEK = ("\u0120", "\u010a")  # the letters that stand for a space and a line's end
WORDS = ["a", "b", "c", "d", *GREEK, "ab", GREEK[0] + "a", GREEK[0] + "ab", "cd", "1", "2"]
VOCAB = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<end>", "<user>", "<mask>", "<think>", *WORDS],
    "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * len(WORDS),
    "tokenizer.ggml.merges": ["a b", f"{GREEK[0]} a", f"{GREEK[0]} ab", "c d"],
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.chat_template": "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}",
}
ROWS = len(VOCAB["tokenizer.ggml.tokens"])

SMALL = {
    "vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "bos_token_id": 1,
    "eos_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {key: number for key, number in SMALL.items() if key != "intermediate_size"} | {
    "num_experts": 3, "num_experts_per_tok": 2, "head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
KEYS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length", "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base", "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length", "expert_intermediate_size": "expert_feed_forward_length",
    "sliding_window": "attention.sliding_window", "d_model": "embedding_length", "n_layers": "block_count",
    "n_heads": "attention.head_count", "n_kv_heads": "attention.head_count_kv", "mlp_hidden_size": "feed_forward_length",
    "max_sequence_length": "context_length", "vocab_size": "vocab_size",
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip

# architecture -> (config.json of the Hub, keys of the file besides those that follow from it)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"architectures": ["LlamaForCausalLM"], **SMALL, "rope_scaling": LLAMA3, "head_dim": 8},
        {"llama.rope.dimension_count": 8},
    ),
    "qwen2": ({"architectures": ["Qwen2ForCausalLM"], **SMALL, "tie_word_embeddings": True}, {}),
    "qwen3": (
        {"architectures": ["Qwen3ForCausalLM"], **SMALL, "head_dim": 16, "tie_word_embeddings": True},
        {"qwen3.attention.key_length": 16, "qwen3.attention.value_length": 16},
    ),
    "qwen3moe": (
        {"architectures": ["Qwen3MoeForCausalLM"], **EXPERTS, "moe_intermediate_size": 32, "norm_topk_prob": True},
        {"qwen3moe.attention.key_length": 16, "qwen3moe.feed_forward_length": 96},
    ),
    "gemma3": (
        {
            "architectures": ["Gemma3ForCausalLM"], **SMALL, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 16,
            "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 16, "tie_word_embeddings": True,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {"gemma3.attention.key_length": 16, "gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0},
    ),
    "llada": (
        {
            "architectures": ["LLaDAModelLM"], "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4,
            "mlp_hidden_size": 64, "max_sequence_length": 128, "vocab_size": ROWS, "embedding_size": ROWS,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "weight_tying": False, "mask_token_id": 2, "eos_token_id": 0,
            "bos_token_id": 1,
        },
        {"llada.attention.causal": False, "diffusion.shift_logits": False, "tokenizer.ggml.mask_token_id": 2},
    ),
    "llada-moe": (
        {
            "architectures": ["LLaDAMoEModelLM"], **EXPERTS, "num_attention_heads": 2, "num_key_value_heads": 2,
            "expert_intermediate_size": 32, "mask_token_id": 2,
        },
        {"llada-moe.attention.causal": False, "diffusion.shift_logits": False, "tokenizer.ggml.mask_token_id": 2},
    ),
    "dream": (
        {"architectures": ["DreamModel"], **SMALL, "mask_token_id": 2},
        {"dream.attention.causal": False, "tokenizer.ggml.mask_token_id": 2},
    ),
}  # fmt: skip


def hub_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of the Hub, float32."""
    family = registry.detect(config)
    made = np.random.default_rng(seed)
    shapes = {
        name: entry.source_shape
        for entry in family.tensors(family.read_config(config, Hints()))
        for name in entry.sources
    }
    return {name: made.standard_normal(shape, dtype=np.float32) * 0.1 for name, shape in shapes.items()}


def model(
    architecture: str, kind: str = "F32", **changes: Any
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, tuple[np.ndarray, str]]]:
    """(tensors of the Hub, metadata and tensors of the file) of a small model; kind: the type of its matrices.

    changes: of config.json. A key of the metadata or a tensor can be changed in what comes back.
    """
    config, keys = MODELS[architecture]
    config = config | changes
    files = hub_tensors(config)
    metadata = {"general.architecture": architecture, **VOCAB}
    metadata |= {f"{architecture}.{KEYS[key]}": value for key, value in config.items() if key in KEYS}
    return files, metadata | keys, laid_out(architecture, config, files, kind)


def laid_out(
    architecture: str, config: dict[str, Any], files: dict[str, np.ndarray], kind: str
) -> dict[str, tuple[np.ndarray, str]]:
    """The file's tensors: its names, experts stacked, rows for a rotation of neighbours, norms as 1 + w."""
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.get("num_hidden_layers") or config["n_layers"])
    heads = config.get("num_attention_heads") or config["n_heads"]
    kv_heads = config.get("num_key_value_heads") or config["n_kv_heads"]
    found: dict[str, tuple[np.ndarray, str]] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, array in files.items():
        stem, _, suffix = name.rpartition(".")
        before, experts, after = stem.partition(".experts.")
        if experts:
            stacks.setdefault(f"{before}.experts.{after.partition('.')[2]}", []).append(array)
            continue
        if architecture in ("llama", "llada") and ".q_proj" in name:
            array = interleaved(array, heads)
        if architecture in ("llama", "llada") and ".k_proj" in name:
            array = interleaved(array, kv_heads)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            array = array + np.float32(1)
        found[f"{names.get_name(stem)}.{suffix}"] = array, kind if array.ndim > 1 else "F32"
    for stem, arrays in stacks.items():
        found[f"{names.get_name(stem)}.weight"] = np.stack(arrays), kind
    if "llama3" in str(config.get("rope_scaling")):
        found["rope_freqs.weight"] = divisors(config["rope_scaling"], config["rope_theta"], config["head_dim"]), "F32"
    return found


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Row 2k + p of a head is row p * half + k of the Hub's."""
    size = array.shape[0] // heads
    order = [head * size + p * (size // 2) + k for head in range(heads) for k in range(size // 2) for p in (0, 1)]
    return array[order]


def divisors(scaling: dict[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """What llama3 scaling divides each frequency by, one frequency after the other."""
    found = []
    for i in range(0, head_dim, 2):
        wave = 2 * np.pi * theta ** (i / head_dim)
        low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
        high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] / wave
        share = (turns - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        smooth = 1 / ((1 - share) / scaling["factor"] + share)
        found.append(1.0 if wave < high else scaling["factor"] if wave > low else smooth)
    return np.array(found, np.float32)


def file(folder: pathlib.Path, architecture: str = "llama", kind: str = "F32", /, **changes):
    """A small model as a file; changes: of its metadata, None to leave a key out."""
    _, metadata, tensors = model(architecture, kind)
    for key, value in changes.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    return write(folder / "m.gguf", metadata, tensors)
