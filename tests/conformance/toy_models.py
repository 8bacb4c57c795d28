"""Random two-layer models of every kind. Importing this starts no device, so that a process may fork after it."""

import dataclasses
import functools
from typing import Any

from jaxdlm._load import LM
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.config import RopeConfig, TokenIds
from jaxdlm.models.registry import FAMILIES, released_config
from tests.models.configs import shrunk
from tests.models.weights import loud_params

VOCAB, MASK, END = 48, 47, 46

BASE = ModelConfig(
    family="llada", vocab_size=VOCAB, num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=4, head_dim=8,
    intermediate_size=48, max_position=128, norm_eps=1e-6, rope=RopeConfig(theta=10000.0), attention="full",
    prediction="same", noise="mask", tokens=TokenIds(mask=MASK, pad=0, eos=(END,)), param_dtype="float32",
)  # fmt: skip
GROUPED = {"n_group": 4, "topk_group": 2, "router_score": "sigmoid", "router_bias": True, "norm_topk": True}
KINDS = {
    "same": {},  # LLaDA: each row predicts its own column
    "next": {"family": "dream", "num_kv_heads": 2, "qkv_bias": True, "prediction": "next"},  # for the following one
    "sdar": {"family": "sdar", "num_kv_heads": 2, "qk_norm": True, "attention": "block_causal", "block_size": 4},
    "v2": {
        "family": "fast_dllm_v2", "num_kv_heads": 2, "qkv_bias": True, "attention": "block_causal", "block_size": 4,
        "prediction": "next",
    },
    "llada2": {
        "family": "llada2_moe", "num_kv_heads": 2, "qk_norm": True, "attention": "block_causal", "block_size": 4,
        "num_experts": 8, "top_k": 3, "expert_size": 12, "shared_size": 12, "first_dense_layers": 1,
        "routed_scale": 2.5, "router_in_f32": True, **GROUPED,
    },
}  # fmt: skip
# Families of masked diffusion that one of these kinds stands for; any other is a kind by itself, by its first release
KNOWN = ("llada", "llada_moe", "dream", "sdar", "sdar_moe", "stable_diffcoder", "fast_dllm_v2", "llada2_moe", "a2d")
SAME = ("vocab_size", "hidden_size", "max_position", "tokens")  # all toys have the same head and ids


def kind_of(config: ModelConfig) -> dict[str, Any]:
    """A released configuration in toy sizes."""
    small = shrunk(config)
    return {field.name: getattr(small, field.name) for field in dataclasses.fields(small) if field.name not in SAME}


OWN = {
    family.name: kind_of(released_config(next(iter(family.released)))) for family in FAMILIES.values()
    if family.name not in KNOWN and family.released
}  # fmt: skip
OWN = {name: kind for name, kind in OWN.items() if kind["noise"] == "mask"}


def untrained(kind: str) -> LM:
    """A model without weights: all that a recipe and a cache are checked against."""
    return LM(Backbone(dataclasses.replace(BASE, **(KINDS | OWN)[kind])), None, None, f"toy-{kind}")


@functools.cache
def model(kind: str) -> LM:
    lm = untrained(kind)
    return dataclasses.replace(lm, params=loud_params(lm.config, 1))
