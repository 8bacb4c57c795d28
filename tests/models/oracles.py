"""Independent implementations: classes of PyPI transformers with loud random weights, written as the hub has them.

Each oracle is built once per session. `Case.files` are the tensors and `Case.config` the config.json that a released
checkpoint of the family would hold; a few are renamed here because transformers knows the family by another name.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers

from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.hub_config import Hints
from jaxdlm.models.registry import detect
from tests.models.reading import logits, params_of

MASK_ID = 199
B, T = 2, 37
PADDED = 5  # columns of left padding in row 1

DENSE = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}
MOE = DENSE | {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "decoder_sparse_step": 1}


def theta(value: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": value} | more}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}


@dataclass(frozen=True)
class Recipe:
    """A transformers class with its settings, and how its files become the hub's."""

    oracle: str
    settings: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    rename: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda files: files
    drop: tuple[str, ...] = ()


def _llada_names(files: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    parts = {
        "model.embed_tokens": "model.transformer.wte",
        "model.norm": "model.transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
        "model.layers": "model.transformer.blocks",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ff_norm",
        "self_attn.o_proj": "attn_out",
        "self_attn.": "",
        "mlp.gate_proj": "ff_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "ff_out",
    }
    return {functools.reduce(lambda n, p: n.replace(*p), parts.items(), name): x for name, x in files.items()}


def _llada2_names(files: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    parts = {
        "model.embed_tokens": "model.word_embeddings",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "self_attn.o_proj": "attention.dense",
        "gate.e_score_correction_bias": "gate.expert_bias",
    }
    out = {functools.reduce(lambda n, p: n.replace(*p), parts.items(), name): x for name, x in files.items()}
    for name in [name for name in out if name.endswith("self_attn.q_proj.weight")]:
        stem = name.removesuffix("q_proj.weight")
        fused = np.concatenate([out.pop(f"{stem}{x}_proj.weight") for x in "qkv"])
        out[stem.replace("self_attn.", "attention.query_key_value.weight")] = fused
    return out


def _as(architecture: str, model_type: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, "mask_token_id": MASK_ID} | more


def _nemotron_names(files: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.replace("model.", "encoder.", 1).replace("lm_head", "diffusion_head"): x for name, x in files.items()}


def _fuse(files: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts as some savers write them: those of a layer in two tensors."""
    out = {name: x for name, x in files.items() if ".mlp.experts." not in name}
    for stem in {name[: name.index(".experts.") + 8] for name in files if ".mlp.experts." in name}:
        each = lambda part: [files[f"{stem}.{e}.{part}_proj.weight"] for e in range(MOE["num_experts"])]  # noqa: E731
        both = [np.concatenate(pair) for pair in zip(each("gate"), each("up"), strict=True)]
        out |= {f"{stem}.gate_up_proj": np.stack(both), f"{stem}.down_proj": np.stack(each("down"))}
    return out


RECIPES: dict[str, Recipe] = {
    "llada": Recipe(
        "LlamaForCausalLM",
        DENSE | {"num_key_value_heads": 4, "rms_norm_eps": 1e-5} | theta(5e5),
        _as(
            "LLaDAModelLM",
            "llada",
            d_model=64,
            n_layers=3,
            n_heads=4,
            n_kv_heads=4,
            mlp_hidden_size=160,
            rope_theta=5e5,
            max_sequence_length=128,
            weight_tying=False,
            embedding_size=200,
        ),
        _llada_names,
    ),
    "dream": Recipe("Qwen2ForCausalLM", DENSE | theta(1e6), _as("DreamModel", "Dream")),
    "sdar": Recipe(
        "Qwen3ForCausalLM", DENSE | {"head_dim": 24} | theta(1e6), _as("SDARForCausalLM", "sdar", block_size=4)
    ),
    "sdar_moe": Recipe(
        "Qwen3MoeForCausalLM",
        MOE | {"head_dim": 24, "norm_topk_prob": True} | theta(1e6),
        _as("SDARMoeForCausalLM", "sdar_moe", block_size=4),
    ),
    "llada_moe": Recipe(
        "Qwen3MoeForCausalLM",
        MOE | {"num_key_value_heads": 4, "norm_topk_prob": False, "rms_norm_eps": 1e-5, "head_dim": 16} | theta(5e4),
        _as("LLaDAMoEModelLM", "llada", expert_intermediate_size=48, rope_theta=5e4),
        drop=("rope_parameters",),
    ),
    "llada2_moe": Recipe(
        "Glm4MoeForCausalLM",
        DENSE
        | {"num_hidden_layers": 4, "intermediate_size": 96, "head_dim": 16, "use_qk_norm": True, "rms_norm_eps": 1e-6}
        | {"n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "n_shared_experts": 1}
        | {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1}
        | theta(6e5, partial_rotary_factor=0.5),
        _as("LLaDA2MoeModelLM", "llada2_moe", num_experts=16, num_shared_experts=1, rotary_dim=8, block_size=8),
        _llada2_names,
    ),
    "fast_dllm_v2": Recipe(
        "Qwen2ForCausalLM", DENSE | theta(1e6), _as("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen", bd_size=8)
    ),
    "a2d": Recipe(
        "Qwen3ForCausalLM",
        DENSE | {"head_dim": 24, "tie_word_embeddings": True} | theta(1e6),
        _as("A2DQwen3LMHeadModel", "a2d-qwen3"),
    ),
    "qwen2": Recipe("Qwen2ForCausalLM", DENSE | {"tie_word_embeddings": True} | theta(1e6)),
    "qwen2 windows, yarn": Recipe(
        "Qwen2ForCausalLM",
        DENSE | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1} | {"rope_parameters": YARN},
    ),
    "sdar_moe fused, yarn": Recipe(
        "Qwen3MoeForCausalLM",
        MOE | {"head_dim": 24, "norm_topk_prob": True} | {"rope_parameters": YARN | {"factor": 0.5, "mscale": 1.0}},
        _as("SDARMoeForCausalLM", "sdar_moe", block_size=4),
        _fuse,
    ),
    "stable_diffcoder": Recipe(
        "LlamaForCausalLM", DENSE | theta(5e5), _as("StableDiffcoderForCausalLM", "llama", block_size=4)
    ),
    "idlm": Recipe(
        "Qwen3ForCausalLM",
        DENSE | {"head_dim": 24} | theta(1e6),
        _as("SDARForCausalLM", "sdar", use_regular_causal=True),
    ),
    "wedlm": Recipe(
        "Qwen3ForCausalLM",
        DENSE | {"head_dim": 24} | theta(1e6),
        _as("WeDLMForCausalLM", "wedlm", qk_norm=True, attention_bias=False),
    ),
    "wedlm biases": Recipe(
        "Qwen2ForCausalLM",
        DENSE | theta(1e6),
        _as("WeDLMForCausalLM", "wedlm", qk_norm=False, attention_bias=True),
    ),
    "nemotron_ld": Recipe(
        "Ministral3ForCausalLM",
        DENSE
        | {"head_dim": 24, "rms_norm_eps": 1e-5}
        | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}},
        _as("NemotronLabsDiffusionModel", "nemotron_labs_diffusion", block_size=8),
        _nemotron_names,
    ),
    "qwen3": Recipe("Qwen3ForCausalLM", DENSE | {"head_dim": 24} | theta(1e6)),
    "qwen3_moe": Recipe("Qwen3MoeForCausalLM", MOE | {"norm_topk_prob": True, "head_dim": 16} | theta(1e6)),
    "llama": Recipe(
        "LlamaForCausalLM", DENSE | {"rms_norm_eps": 1e-5} | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}
    ),
    "gemma3_text": Recipe(
        "Gemma3ForCausalLM",
        DENSE
        | {"num_hidden_layers": 8, "num_key_value_heads": 1, "head_dim": 24, "sliding_window": 8}
        | {"query_pre_attn_scalar": 20, "tie_word_embeddings": True}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One family: the torch oracle, and the same weights read through the family's own table."""

    name: str
    oracle: Any
    values: dict[str, Any]
    files: dict[str, np.ndarray]
    config: ModelConfig
    params: Any

    @property
    def model(self) -> Backbone:
        return Backbone(self.config)


@functools.cache
def case(name: str) -> Case:
    """The oracle of a family with loud weights, and what our reader makes of its files."""
    recipe = RECIPES[name]
    oracle_class = getattr(transformers, recipe.oracle)
    settings = dict(recipe.settings)
    implementation = settings.pop("attn_implementation")
    oracle = oracle_class._from_config(oracle_class.config_class(**settings), attn_implementation=implementation)
    make_loud(oracle, plus_one=name == "gemma3_text")
    values = oracle.config.to_dict() | {"architectures": [recipe.oracle]} | recipe.config
    values = {key: value for key, value in values.items() if key not in recipe.drop}
    files = recipe.rename(hub_tensors(oracle))
    config = detect(values).read_config(values, Hints())
    return Case(name, oracle.eval(), values, files, config, params_of(config, files))


def make_loud(model: torch.nn.Module, plus_one: bool = False, seed: int = 0) -> None:
    """Every weight far from neutral, so that a comparison is not blind to any of them."""
    rng = np.random.default_rng(seed)
    tensors = list(model.named_parameters()) + [
        (name, buffer) for name, buffer in model.named_buffers() if name.endswith(("correction_bias", "layer_scalar"))
    ]
    for name, tensor in tensors:
        noise = rng.standard_normal(tensor.shape)
        if name.endswith("layer_scalar"):
            value = rng.uniform(1, 1.2, tensor.shape)
        elif name.endswith("correction_bias"):
            value = 0.05 * noise
        elif name.endswith(("router.scale", "per_expert_scale")):
            value = 1 + 0.2 * noise
        elif "norm" in name:
            value = (0.0 if plus_one else 1.0) + 0.3 * noise
        else:
            value = 0.15 * noise
        tensor.data.copy_(torch.from_numpy(value))


def hub_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The tensors under the names of released files: experts one by one, a tied head left out."""
    out: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        x = tensor.detach().numpy().copy()
        if name.endswith("mlp.experts.gate_up_proj"):
            for e, fused in enumerate(x):
                stem = name.removesuffix("gate_up_proj")
                out[f"{stem}{e}.gate_proj.weight"], out[f"{stem}{e}.up_proj.weight"] = np.split(fused, 2)
        elif name.endswith("mlp.experts.down_proj"):
            out |= {f"{name.removesuffix('down_proj')}{e}.down_proj.weight": one for e, one in enumerate(x)}
        elif not (name == "lm_head.weight" and model.config.get_text_config().tie_word_embeddings):
            out[name] = x
    return out


@dataclass(frozen=True)
class Batch:
    """A ragged batch: row 1 starts with padding, its positions start at 0 behind it."""

    tokens: np.ndarray
    position: np.ndarray
    valid: np.ndarray


def batch(vocab: int = 190) -> Batch:
    rng = np.random.default_rng(1)
    tokens = rng.integers(3, vocab, (B, T)).astype(np.int32)
    position = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    position[1] = np.maximum(position[1] - PADDED, 0)
    valid = np.ones((B, T), bool)
    valid[1, :PADDED] = False
    return Batch(tokens, position, valid)


def allowed(config: ModelConfig, data: Batch, window: int = 0) -> np.ndarray:
    """[B, T, T], one pair at a time."""
    out = np.zeros((B, T, T), bool)
    for b in range(B):
        for q in range(T):
            for k in range(T):
                i, j = int(data.position[b, q]), int(data.position[b, k])
                see = {
                    "full": True,
                    "causal": j <= i,
                    "prefix_canvas": j <= i,  # the pass over the prefix
                    "block_causal": j // max(config.block_size, 1) <= i // max(config.block_size, 1),
                }[config.attention]
                out[b, q, k] = data.valid[b, k] and see and (not window or i - j < window)
    return out


def oracle_logits(case: Case, data: Batch, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Logits of the torch class, its attention replaced by an explicit mask."""
    # a copy: `to` works in place, and float32 weights that went through bfloat16 stay rounded
    model = case.oracle if dtype == torch.float32 else copy.deepcopy(case.oracle).to(dtype)

    def additive(window: int = 0) -> torch.Tensor:
        mask = torch.from_numpy(allowed(case.config, data, window))[:, None]
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

    mask: Any = additive()
    if case.config.layer_kinds:
        mask = {"full_attention": mask, "sliding_attention": additive(case.config.sliding_window)}
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(data.tokens).long(),
            attention_mask=mask,
            position_ids=torch.from_numpy(data.position).long(),
            use_cache=False,
        ).logits
    return out.float().numpy()


def our_logits(case: Case, data: Batch, params: Any = None) -> np.ndarray:
    return np.asarray(logits(case.model, params or case.params, data.tokens, data.position, data.valid))


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """The rule of the house: largest difference, and the same arg max wherever the gap to the second is no tie."""
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
    top = np.sort(theirs, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-3
    assert clear.any()
    np.testing.assert_array_equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])
