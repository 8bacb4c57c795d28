"""config.json as a GGUF file's metadata has it, and the tensors under the names that belong to that config.json.

Architectures and keys are those of llama.cpp, whose network is the reference for what a key means where the Hub's
configuration says more than the file: every such number is stated here. A key that is neither read nor without effect is
refused by name, since a network that ignores one is another network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import ShapeMismatch
from jaxdlm.checkpoint.gguf.header import Header
from jaxdlm.checkpoint.gguf.metadata import Metadata, shown
from jaxdlm.checkpoint.gguf.tensors import GgufTensors, Place, gguf_tensors
from jaxdlm.checkpoint.tensors import compare_names
from jaxdlm.errors import ConfigUnsupported, did_you_mean
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import gemma3, llada
from jaxdlm.models.table import DECODER, TensorMap

# leaf of a parameter tree -> tensor of the file; {i} is the layer; experts are the first axis
LEAVES = {
    "embed": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "lm_head": "output.weight",
    "attn_norm": "blk.{i}.attn_norm.weight",
    "post_attn_norm": "blk.{i}.post_attention_norm.weight",
    "mlp_norm": "blk.{i}.ffn_norm.weight",
    "post_mlp_norm": "blk.{i}.post_ffw_norm.weight",
    "wq": "blk.{i}.attn_q.weight",
    "wk": "blk.{i}.attn_k.weight",
    "wv": "blk.{i}.attn_v.weight",
    "wo": "blk.{i}.attn_output.weight",
    "bq": "blk.{i}.attn_q.bias",
    "bk": "blk.{i}.attn_k.bias",
    "bv": "blk.{i}.attn_v.bias",
    "q_norm": "blk.{i}.attn_q_norm.weight",
    "k_norm": "blk.{i}.attn_k_norm.weight",
    "gate": "blk.{i}.ffn_gate.weight",
    "up": "blk.{i}.ffn_up.weight",
    "down": "blk.{i}.ffn_down.weight",
    "router": "blk.{i}.ffn_gate_inp.weight",
    "e_gate": "blk.{i}.ffn_gate_exps.weight",
    "e_up": "blk.{i}.ffn_up_exps.weight",
    "e_down": "blk.{i}.ffn_down_exps.weight",
}
ROPE = "rope_freqs.weight"  # of llama3 scaling: what each frequency is divided by
LAYER = re.compile(r"blk\.(\d{1,6})\.")
# keys of an architecture that say nothing about the network, or nothing that its tensors do not
IDLE = (
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "pooling_type", "tensor_data_layout",
    "attention.layer_norm_epsilon",
)  # fmt: skip
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # of every release
# ids that end a text, by the metadata
ENDS = ("eos", "eot", "eom")
THETA = 10000.0  # where none is stated


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp as the Hub's class that has its network.

    names: leaf -> Hub tensor; interleaved: rows of queries and keys are stored for a rotation of neighbours; plus_one:
    norms are stored as 1 + w; full: nothing is masked; config: the keys of that class.
    """

    hub: str
    model_type: str
    config: Callable[[Metadata, Header], dict[str, Any]]
    names: Mapping[str, Any]
    interleaved: bool = False
    plus_one: bool = False
    full: bool = False


def architecture(metadata: Metadata) -> Architecture:
    """The architecture of a file; ConfigUnsupported for others, and for files that are no model or a part of one."""
    path = metadata.header.path
    kind, parts = metadata.text("general.type", "model"), metadata.integer("split.count", 0)
    if kind != "model":
        raise ConfigUnsupported(f"{path}: general.type is {kind[:40]!r}: give the GGUF file of a model")
    if parts > 1:
        raise ConfigUnsupported(
            f"{path}: is one of {parts} parts: join them with llama-gguf-split --merge, and give the result"
        )
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        hint = did_you_mean(name, ARCHITECTURES)
        raise ConfigUnsupported(
            f"{path}: general.architecture {name[:60]!r} is not supported{hint}: one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def hub_config(metadata: Metadata) -> dict[str, Any]:
    """config.json. Raises HeaderInvalid and ConfigUnsupported, each naming the key."""
    kind = architecture(metadata)
    name = metadata.text("general.architecture")
    _check_layers(metadata, f"{name}.block_count")
    values = kind.config(metadata, metadata.header)
    if metadata.flag(f"{name}.attention.causal", not kind.full) is kind.full:
        raise ConfigUnsupported(
            f"{metadata.header.path}: {name}.attention.causal is {kind.full}, which no {kind.hub} is"
        )
    values |= {f"{key}_token_id": metadata.integer(f"tokenizer.ggml.{key}_token_id", None) for key in ("bos", "mask")}
    values["pad_token_id"] = metadata.integer("tokenizer.ggml.padding_token_id", None)
    ends = [metadata.integer(f"tokenizer.ggml.{key}_token_id", None) for key in ENDS]
    values["eos_token_id"] = list(dict.fromkeys(end for end in ends if end is not None)) or None
    _refuse_unread(metadata, name)
    stated = {key: value for key, value in values.items() if value is not None}
    return {"architectures": [kind.hub], "model_type": kind.model_type, **stated}


def _check_layers(metadata: Metadata, key: str) -> None:
    count, header = metadata.integer(key), metadata.header
    layers = {int(match[1]) for match in map(LAYER.match, header.tensors) if match}
    if layers != set(range(min(count, len(layers) + 1))):
        raise metadata.wrong(
            key, f"is {count}, but the tensors are of {len(layers)} layers", "the file is damaged, or of another model"
        )


def _refuse_unread(metadata: Metadata, name: str) -> None:
    """ConfigUnsupported for a key of the architecture that nobody asked for and that is not neutral."""
    for key, value in metadata.header.values.items():
        if not key.startswith(f"{name}.") or key in metadata.seen or key.removeprefix(f"{name}.") in IDLE:
            continue
        without = (0, 1, "") if key.endswith(("scale", "factor")) else (0, "")
        if not (isinstance(value, bool | int | float | str) and value in without):
            raise ConfigUnsupported(
                f"{metadata.header.path}: {key[:100]} ({shown(value)}) is not supported: convert the model from its Hub folder"
            )


# ------------------------------------------------------------------------------------------------------------- tensors


def place_tensors(header: Header, kind: Architecture, config: ModelConfig, maps: Iterable[TensorMap]) -> GgufTensors:
    """The file's tensors under the names that the maps ask for. Raises TensorsMismatch and ShapeMismatch, which name those
    of the file, and ConfigUnsupported for maps of another family."""
    wanted = {name: tuple(entry.source_shape) for entry in maps for name in entry.sources}
    sites = dict(_sites(kind, config))
    strange = next((name for name in wanted if name not in sites), None)
    if strange is not None:
        raise ConfigUnsupported(f"{header.path}: {kind.hub} has no {strange}: leave family out")
    compare_names({sites[name][0] for name in wanted}, set(header.tensors) - {ROPE}, header.path, "the metadata")
    places = {}
    for name, shape in wanted.items():
        stored_name, expert, heads, plus_one = sites[name]
        stored = header.tensors[stored_name]
        whole = shape if expert is None else (config.num_experts, *shape)
        if stored.shape != whole:
            raise ShapeMismatch(
                "has a shape that the metadata do not give", file=header.path, tensor=stored_name, expected=whole,
                got=stored.shape, hint="check embedding_length, feed_forward_length and the counts of heads and experts",
            )  # fmt: skip
        places[name] = Place(stored, expert, heads, plus_one)
    return gguf_tensors(header.path, places)


def _sites(kind: Architecture, config: ModelConfig) -> Iterator[tuple[str, tuple[str, int | None, int, bool]]]:
    """Hub name -> (tensor of the file, expert, interleaved heads, whether it holds 1 + w)."""
    heads = {"wq": config.num_heads, "bq": config.num_heads, "wk": config.num_kv_heads, "bk": config.num_kv_heads}
    for leaf, pattern in kind.names.items():
        turned = heads.get(leaf, 0) if kind.interleaved else 0
        plus_one = kind.plus_one and leaf.endswith("norm")
        for layer in range(config.num_layers) if "{i}" in pattern else (0,):
            stored = LEAVES[leaf].format(i=layer)
            for expert in range(config.num_experts) if "{e}" in pattern else (None,):
                yield pattern.format(i=layer, e=expert), (stored, expert, turned, plus_one)


# ------------------------------------------------------------------------------------------------- keys of config.json


def _decoder(metadata: Metadata, header: Header) -> dict[str, Any]:
    """The keys that every architecture has."""
    name = metadata.text("general.architecture")
    heads = metadata.per_layer(f"{name}.attention.head_count")
    hidden = metadata.integer(f"{name}.embedding_length")
    head_dim = metadata.integer(f"{name}.attention.key_length", None)
    rotated = metadata.integer(f"{name}.rope.dimension_count", None)
    head_dim = head_dim or rotated or hidden // max(1, heads)
    for key, value in (
        (f"{name}.rope.dimension_count", rotated),
        (f"{name}.attention.value_length", metadata.integer(f"{name}.attention.value_length", None)),
    ):
        if value not in (None, head_dim):
            raise ConfigUnsupported(f"{header.path}: {key} is {value}, the head size {head_dim}: not supported")
    return {
        "vocab_size": _rows(metadata),
        "hidden_size": hidden,
        "num_hidden_layers": metadata.integer(f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.per_layer(f"{name}.attention.head_count_kv", None) or heads,
        "head_dim": head_dim,
        "intermediate_size": metadata.per_layer(f"{name}.feed_forward_length", None),
        "max_position_embeddings": metadata.integer(f"{name}.context_length"),
        "rms_norm_eps": metadata.real(f"{name}.attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "rope_theta": metadata.real(f"{name}.rope.freq_base", THETA),
        "rope_scaling": _scaling(metadata, name, head_dim),
        "tie_word_embeddings": LEAVES["lm_head"] not in header.tensors,
    }


def _rows(metadata: Metadata) -> int | None:
    """Rows of the embedding, as the vocabulary says where the file has one."""
    tokens = metadata.strings("tokenizer.ggml.tokens", None)
    name = metadata.text("general.architecture")
    stated = metadata.integer(f"{name}.vocab_size", None)
    stored = metadata.header.tensors.get(LEAVES["embed"])
    rows = stored.shape[0] if stored is not None else None
    for key, count in ((f"{name}.vocab_size", stated), ("tokenizer.ggml.tokens", tokens and len(tokens))):
        if rows is not None and count not in (None, rows):
            raise metadata.wrong(key, f"is of {count} tokens, but {LEAVES['embed']} has {rows} rows")
    return rows if rows is not None else stated


def _scaling(metadata: Metadata, name: str, head_dim: int) -> dict[str, Any] | None:
    """`rope_scaling`: by a factor, or by the tensor of divisors as which llama3 scaling is stored."""
    key = f"{name}.rope.scaling.type"
    kind = metadata.text(key, "none")
    factor = metadata.real(f"{name}.rope.scaling.factor", None) or metadata.real(f"{name}.rope.scale_linear", None)
    if kind not in ("none", "linear"):
        raise ConfigUnsupported(f"{metadata.header.path}: {key} {kind[:40]!r} is not supported (none, linear, llama3)")
    if ROPE in metadata.header.tensors:
        return _llama3(metadata.header, metadata.real(f"{name}.rope.freq_base", THETA), head_dim)
    return None if factor in (None, 1) else {"rope_type": "linear", "factor": factor}


def _llama3(header: Header, theta: float, head_dim: int) -> dict[str, Any] | None:
    """The factor of llama3 scaling from what it divides the frequencies by; None where that is 1.

    Of a frequency f that turns t = 8192 f / 2 pi times in the context, s = (t - 1) / 3 within [0, 1], the divisor is
    1 / ((1 - s) / factor + s).
    """
    stored = header.tensors[ROPE]
    if stored.shape != (head_dim // 2,):
        raise ShapeMismatch(
            "has not one number per frequency", file=header.path, tensor=ROPE, expected=(head_dim // 2,), got=stored.shape,
            hint="convert the model again",
        )  # fmt: skip
    divisors = gguf_tensors(header.path, {ROPE: Place(stored)}).read(ROPE).astype(np.float64)
    low, high, length = LLAMA3.values()
    with np.errstate(all="ignore"):
        frequency = np.float64(theta) ** (-np.arange(0, head_dim, 2) / head_dim)
        share = np.clip((length * frequency / (2 * np.pi) - low) / (high - low), 0, 1)
        most = int(np.argmax(divisors))
        factor = (1 - share[most]) / (1 / divisors[most] - share[most])
        again = 1 / ((1 - share) / factor + share)
    if np.allclose(divisors, 1):
        return None
    if not np.allclose(divisors, again, rtol=1e-4):
        raise ConfigUnsupported(f"{header.path}: {ROPE} holds other divisors than those of Llama 3: not supported")
    return {"rope_type": "llama3", "factor": float(np.float32(factor).round(4)), **LLAMA3}


def _qwen3moe(metadata: Metadata, header: Header) -> dict[str, Any]:
    """The network always renormalises the weights of the chosen experts."""
    return {**_experts(metadata, header, "moe_intermediate_size"), "norm_topk_prob": True}


def _llada_moe(metadata: Metadata, header: Header) -> dict[str, Any]:
    _unshifted(metadata)
    return _experts(metadata, header, "expert_intermediate_size")


def _experts(metadata: Metadata, header: Header, size: str) -> dict[str, Any]:
    name = metadata.text("general.architecture")
    values = _decoder(metadata, header)
    used = metadata.integer(f"{name}.expert_used_count")
    gating = metadata.integer(f"{name}.expert_gating_func", 1)
    if gating not in (0, 1):  # 0: not stated
        raise ConfigUnsupported(f"{header.path}: {name}.expert_gating_func {gating} is not supported (only 1, softmax)")
    wide = values.pop("intermediate_size")
    values["num_experts"] = metadata.integer(f"{name}.expert_count")
    values["num_experts_per_tok"] = used
    values[size] = metadata.integer(f"{name}.expert_feed_forward_length", None) or (wide or 0) // max(1, used)
    return values


def _dream(metadata: Metadata, header: Header) -> dict[str, Any]:
    if not metadata.flag("diffusion.shift_logits", True):
        raise ConfigUnsupported(f"{header.path}: diffusion.shift_logits is false, but Dream predicts the next token")
    return _decoder(metadata, header)


def _llada(metadata: Metadata, header: Header) -> dict[str, Any]:
    """LLaDA's own names for the same numbers."""
    _unshifted(metadata)
    values = _decoder(metadata, header)
    if values["head_dim"] * values["num_attention_heads"] != values["hidden_size"]:
        raise ConfigUnsupported(f"{header.path}: heads of {values['head_dim']} do not make up {values['hidden_size']}")
    new = {
        "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads", "mlp_hidden_size": "intermediate_size", "weight_tying": "tie_word_embeddings",
        "max_sequence_length": "max_position_embeddings", "embedding_size": "vocab_size", "vocab_size": "vocab_size",
    }  # fmt: skip
    same = ("rms_norm_eps", "rope_theta", "rope_scaling")
    return {key: values[old] for key, old in new.items()} | {key: values[key] for key in same}


def _unshifted(metadata: Metadata) -> None:
    if metadata.flag("diffusion.shift_logits", False):
        raise ConfigUnsupported(
            f"{metadata.header.path}: diffusion.shift_logits is true, but LLaDA predicts the token at its own place"
        )


def _gemma3(metadata: Metadata, header: Header) -> dict[str, Any]:
    """Every sixth layer is global unless the file says otherwise; the 27B model alone scales scores by its width."""
    values = {key: value for key, value in _decoder(metadata, header).items() if key != "hidden_act"}
    layers, heads = values["num_hidden_layers"], values["num_attention_heads"]
    window = metadata.integer("gemma3.attention.sliding_window", None)
    pattern = metadata.get("gemma3.attention.sliding_window_pattern", 6)
    if isinstance(pattern, np.ndarray):
        local = [bool(flag) for flag in pattern[:layers]]
    elif isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        local = [(layer + 1) % pattern != 0 for layer in range(layers)]
    else:
        raise metadata.wrong(
            "gemma3.attention.sliding_window_pattern", f"must be a number above 0, got {pattern!r:.40}"
        )
    if not window:
        local = [False] * layers
    return values | {
        "layer_types": ["sliding_attention" if flag else "full_attention" for flag in local],
        "sliding_window": window or values["max_position_embeddings"],
        "rope_local_base_freq": metadata.real("gemma3.rope.freq_base_swa", THETA),
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": values["hidden_size"] // max(1, heads) if layers == 62 else values["head_dim"],
        "final_logit_softcapping": metadata.real("gemma3.final_logit_softcapping", None) or None,
    }


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "llama", _decoder, DECODER, interleaved=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2", _decoder, DECODER),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", _decoder, DECODER),
    "qwen3moe": Architecture("Qwen3MoeForCausalLM", "qwen3_moe", _qwen3moe, DECODER),
    "gemma3": Architecture("Gemma3ForCausalLM", "gemma3_text", _gemma3, gemma3.NAMES, plus_one=True),
    "llada": Architecture("LLaDAModelLM", "llada", _llada, llada.NAMES, interleaved=True, full=True),
    "llada-moe": Architecture("LLaDAMoEModelLM", "llada_moe", _llada_moe, DECODER, full=True),
    "dream": Architecture("DreamModel", "Dream", _dream, DECODER, full=True),
}
