"""The PyTorch oracle of a family: a class of PyPI transformers, filled from the source tensors by name.

Nothing of the conversion tables is used, so that a wrong table cannot agree with itself; no code of the checkpoint
runs. Which class equals which family was established against the official implementations (see docs/convert.md).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import CheckpointError
from jaxdlm.checkpoint.gguf.tensors import GgufTensors
from jaxdlm.checkpoint.source import Checkpoint
from jaxdlm.models.config import ModelConfig, RopeConfig

CLASSES = {
    "llada": "LlamaForCausalLM",
    "llama": "LlamaForCausalLM",
    "dream": "Qwen2ForCausalLM",
    "fast_dllm_v2": "Qwen2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "sdar": "Qwen3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "sdar_moe": "Qwen3MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "llada_moe": "Qwen3MoeForCausalLM",
    "llada2_moe": "Glm4MoeForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "stable_diffcoder": "LlamaForCausalLM",
    "idlm": "Qwen3ForCausalLM",
    "nemotron_ld_ar": "Ministral3ForCausalLM",
}
RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "llada": (
        (r"model\.transformer\.wte\.", "model.embed_tokens."),
        (r"model\.transformer\.ln_f\.", "model.norm."),
        (r"model\.transformer\.ff_out\.", "lm_head."),
        (r"model\.transformer\.blocks\.(\d+)\.attn_norm\.", r"model.layers.\1.input_layernorm."),
        (r"model\.transformer\.blocks\.(\d+)\.ff_norm\.", r"model.layers.\1.post_attention_layernorm."),
        (r"model\.transformer\.blocks\.(\d+)\.([qkv]_proj)\.", r"model.layers.\1.self_attn.\2."),
        (r"model\.transformer\.blocks\.(\d+)\.attn_out\.", r"model.layers.\1.self_attn.o_proj."),
        (r"model\.transformer\.blocks\.(\d+)\.ff_proj\.", r"model.layers.\1.mlp.gate_proj."),
        (r"model\.transformer\.blocks\.(\d+)\.up_proj\.", r"model.layers.\1.mlp.up_proj."),
        (r"model\.transformer\.blocks\.(\d+)\.ff_out\.", r"model.layers.\1.mlp.down_proj."),
    ),
    "llada2_moe": (
        (r"model\.word_embeddings\.", "model.embed_tokens."),
        (r"(.*)\.attention\.query_layernorm\.", r"\1.self_attn.q_norm."),
        (r"(.*)\.attention\.key_layernorm\.", r"\1.self_attn.k_norm."),
        (r"(.*)\.attention\.dense\.", r"\1.self_attn.o_proj."),
        (r"(.*)\.gate\.expert_bias", r"\1.gate.e_score_correction_bias"),
    ),
    "nemotron_ld_ar": (
        (r"(?:model\.encoder|encoder|language_model)\.(?!diffusion_head)", "model."),
        (r"(?:language_model\.)?diffusion_head\.", "lm_head."),
    ),
    "gemma3_text": ((r"(model\.language_model|language_model\.model)\.", "model."),),
}
GGUF_KNOWN = {
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma3_text",
}  # model types whose GGUF files transformers reads alike
# settings of transformers' own keys; model_type and the like belong to the class, the rest is not the network's
_NOT_SETTINGS = ("model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version")


def class_name(source: Checkpoint) -> str | None:
    """The transformers class that equals this checkpoint's network, None where there is none."""
    config = source.config
    if config.family in ("a2d", "wedlm"):
        return "Qwen2ForCausalLM" if config.qkv_bias else "Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"
    return CLASSES.get(config.family)


def build(source: Checkpoint, dtypes: Mapping[str, np.dtype]) -> Any:
    """The filled torch module in float32; dtypes: tensor -> the dtype that the conversion rounded it to."""
    import torch
    import transformers

    cls = getattr(transformers, class_name(source) or "")
    settings = cls.config_class(**_settings(source))
    if reads_itself(source):
        return _own_reading(source, cls, settings, dtypes)
    with torch.device("cpu"):
        model = cls._from_config(settings, attn_implementation="eager").float().eval()
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    filled = dict.fromkeys((name for name, _ in model.named_parameters()), 0)
    filled |= {name: 0 for name in targets if name.endswith("e_score_correction_bias")}
    for name, array in _tensors(source, dtypes):
        target, where = _locate(name, targets)
        part = targets[target].data if where is None else where(targets[target].data)
        if tuple(part.shape) != array.shape:
            raise CheckpointError("does not fit the oracle", tensor=name, expected=tuple(part.shape), got=array.shape)
        part.copy_(torch.from_numpy(array))
        filled[target] += array.size
    empty = [name for name, count in filled.items() if count != targets[name].numel()]
    if empty:
        raise CheckpointError(f"the oracle's {empty[0]} is not filled by the source ({len(empty)} such)")
    return model


def reads_itself(source: Checkpoint) -> bool:
    """Whether the oracle reads its weights from the GGUF file by itself, so that a wrong reading cannot agree with itself.

    transformers knows some architectures of the format, and needs the package accelerate.
    """
    if not isinstance(source.tensors, GgufTensors):
        return False
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return source.raw["model_type"] in GGUF_KNOWN & {*GGUF_SUPPORTED_ARCHITECTURES, "gemma3_text"} and (
        importlib.util.find_spec("accelerate") is not None
    )


def _own_reading(source: Checkpoint, cls: Any, settings: Any, dtypes: Mapping[str, np.dtype]) -> Any:
    """transformers' own reading of a GGUF file, each tensor then rounded as the conversion rounded it."""
    import torch

    path = source.tensors.file("")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        model = cls.from_pretrained(
            path.parent, gguf_file=path.name, config=settings, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    targets = dict(model.named_parameters())
    for name, dtype in dtypes.items():
        target, where = _locate(name, targets)
        part = targets[target].data if where is None else where(targets[target].data)
        part.copy_(torch.from_numpy(part.numpy().astype(dtype).astype(np.float32)))
    return model


def _tensors(source: Checkpoint, dtypes: Mapping[str, np.dtype]) -> Iterator[tuple[str, np.ndarray]]:
    rules = [(re.compile(old), new) for old, new in RENAMES.get(source.config.family, ())]
    for name in source.tensors.infos:
        if name in source.ignored:
            continue
        array = source.tensors.read(name)
        array = array.astype(dtypes.get(name, array.dtype)).astype(np.float32)
        new = next((rule.sub(to, name) for rule, to in rules if rule.match(name)), name)
        if new.endswith("attention.query_key_value.weight"):
            config, stem = source.config, new.replace("attention.query_key_value.weight", "self_attn.")
            ends = np.cumsum([config.num_heads, config.num_kv_heads]) * config.head_dim
            yield from ((f"{stem}{x}_proj.weight", part) for x, part in zip("qkv", np.split(array, ends)))
        else:
            yield new, array


def _locate(name: str, targets: Mapping[str, Any]) -> tuple[str, Callable[[Any], Any] | None]:
    """(parameter, view of it): experts are single tensors in files and stacked in memory."""
    match = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight", name)
    if match is None:
        if name not in targets:
            raise CheckpointError("has no place in the oracle", tensor=name)
        return name, None
    stem, expert, which = match[1], int(match[2]), match[3]
    if which == "down":
        return f"{stem}.down_proj", lambda full: full[expert]
    return f"{stem}.gate_up_proj", lambda full: full[expert].chunk(2, 0)[0 if which == "gate" else 1]


def _settings(source: Checkpoint) -> dict[str, Any]:
    config, raw = source.config, dict(source.raw)
    if config.family in ("llada", "llada2_moe"):
        return _from_config(config)
    if config.family == "gemma3_text":
        raw = dict(raw.get("text_config", raw))
    settings = {key: value for key, value in raw.items() if key not in _NOT_SETTINGS}
    if config.family == "llada_moe":  # the reference never renormalises, whatever the file says
        settings |= {"norm_topk_prob": False, "moe_intermediate_size": config.expert_size, "mlp_only_layers": []}
        settings |= {"decoder_sparse_step": 1, "head_dim": config.head_dim}
    return settings


def _from_config(config: ModelConfig) -> dict[str, Any]:
    """Settings where the released keys are not transformers'."""
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": _rope(config.rope, config.head_dim),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if config.family != "llada2_moe":
        return common
    return common | {
        "n_routed_experts": config.num_experts,
        "num_experts_per_tok": config.top_k,
        "moe_intermediate_size": config.expert_size,
        "n_shared_experts": config.shared_size // config.expert_size,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "norm_topk_prob": config.norm_topk,
        "routed_scaling_factor": config.routed_scale,
        "first_k_dense_replace": config.first_dense_layers,
        "use_qk_norm": config.qk_norm,
        "attention_bias": False,
    }


def _rope(rope: RopeConfig, head_dim: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.rotary_dim is not None:
        settings["partial_rotary_factor"] = rope.rotary_dim / head_dim
    return settings
