"""A key that config.json leaves out has the value that transformers' own configuration class gives it."""

import copy
import dataclasses
import json
import re
from typing import Any

import pytest

from jaxdlm.errors import InputError
from jaxdlm.models.hub_config import Hints
from jaxdlm.models.registry import FAMILIES, RELEASED, detect, read_config

pytestmark = pytest.mark.slow  # importing transformers takes ten seconds

# architecture -> (class, what the class has no value for). SDAR, Dream, Fast-dLLM v2 and A2D took theirs from these
DIFFUSION = {"num_experts": 16, "top_k_experts": 2, "moe_intermediate_size": 32}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {}),
    "Qwen2ForCausalLM": ("Qwen2Config", {}),
    "Qwen3ForCausalLM": ("Qwen3Config", {}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {}),
    "DiffusionGemmaForBlockDiffusion": ("DiffusionGemmaTextConfig", DIFFUSION),
    "DreamModel": ("Qwen2Config", {}),
    "Fast_dLLM_QwenForCausalLM": ("Qwen2Config", {}),
    "SDARForCausalLM": ("Qwen3Config", {"block_size": 4}),
    "SDARMoeForCausalLM": ("Qwen3MoeConfig", {"block_size": 4}),
    "A2DQwen2LMHeadModel": ("Qwen2Config", {}),
    "A2DQwen3LMHeadModel": ("Qwen3Config", {}),
    "A2DLlamaLMHeadModel": ("LlamaConfig", {"mask_token_id": 7}),
}


def defaults_of(name: str) -> Any:
    """What our table fills in for an architecture; A2D has those of the class that it grew from."""
    families = {"A2DQwen2LMHeadModel": "qwen2", "A2DQwen3LMHeadModel": "qwen3", "A2DLlamaLMHeadModel": "llama"}
    return FAMILIES[families.get(name) or detect({"architectures": [name]}).name].defaults


def written(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the class makes of a config.json: every key with the value that transformers uses."""
    transformers = pytest.importorskip("transformers")
    # lists and objects are changed in place by the class
    found = getattr(transformers, CLASSES[name][0])(**copy.deepcopy(values))
    return json.loads(json.dumps(found.to_dict())) | {"architectures": [name]}


def same(config: Any, other: Any, name: str) -> None:
    """Equal in all that the network computes, and in the ids of special tokens where we take the class's."""
    if name not in ("LlamaForCausalLM", "Gemma3ForCausalLM") or config.tokens.bos == 128000:
        config, other = (dataclasses.replace(each, tokens=config.tokens) for each in (config, other))
    assert config == other


@pytest.mark.parametrize("name", CLASSES)
def test_an_empty_file_is_what_the_class_is_without_arguments(name: str) -> None:
    values, hints = CLASSES[name][1], Hints()
    silent = {"architectures": [name], **values}
    config = read_config(silent, hints)
    same(config, read_config(written(name, values) | values), name)
    table = defaults_of(name)
    said = "\n".join(hints.notes)
    for key, value in table.items():
        assert value is None or f"config.json has no {key};" in said, f"{key} is never read"


@pytest.mark.parametrize("name", CLASSES)
def test_each_default_is_the_class_s(name: str) -> None:
    table = defaults_of(name)
    theirs = written(name, CLASSES[name][1])
    rope = theirs["rope_parameters"]
    rope = rope.get("full_attention", rope) | {"local": rope.get("sliding_attention", rope)}
    theirs |= {"rope_theta": rope["rope_theta"], "rope_local_base_freq": rope["local"]["rope_theta"]}
    theirs["final_logit_softcapping"] = 30.0  # a constant of DiffusionGemma's class, which it does not write
    for key, value in table.items():  # the others: transformers has no such key, or another name for it
        if value is not None and key not in ("bd_size", "sliding_window_pattern", "global_head_dim", "num_experts"):
            assert theirs[key] == value, key


@pytest.mark.parametrize("shape", [name for name in RELEASED if RELEASED[name]["architectures"][0] in CLASSES])
def test_any_key_may_be_left_out(shape: str) -> None:
    """One at a time from each released shape, and all of the optional ones at once."""
    values = RELEASED[shape]
    name = values["architectures"][0]
    values = values.get("text_config", values)
    keys = [key for key in values if key not in ("architectures", *CLASSES[name][1])]
    for left in (*([key] for key in keys), [key for key in keys if key not in ("rope_parameters", "hidden_size")]):
        rest = {key: value for key, value in values.items() if key not in left} | {"architectures": [name]}
        try:
            theirs = written(name, rest)
        except Exception as error:  # sizes of one model and heads of another: we look at the tensors instead
            assert "hidden size" in str(error)
            continue
        theirs |= {key: rest[key] for key in ("block_size", "bd_size") if key in rest}
        try:
            full = read_config(theirs)
        except InputError as error:  # theirs do not go together: nor do ours
            with pytest.raises(InputError, match=re.escape(str(error))):
                read_config(rest)
            continue
        same(read_config(rest), full, name)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3MoeForCausalLM"])
def test_null_leaves_a_number_to_be_derived(name: str) -> None:
    values = {"num_attention_heads": 4, "hidden_size": 64, "head_dim": None, "rope_scaling": None}
    if name != "Qwen3MoeForCausalLM":  # an integer in its class
        values["num_key_value_heads"] = None
    config = read_config(values | {"architectures": [name]})
    assert config.head_dim == 16 and config.num_kv_heads == 4
    same(config, read_config(written(name, values)), name)


def test_the_file_of_gemma_3_4b() -> None:
    """Its text_config as released; the rest is the class's, and the ends of a text stand outside of it."""
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }  # fmt: skip
    values = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
        "text_config": text, "torch_dtype": "bfloat16", "vision_config": {"model_type": "siglip_vision_model"},
    }  # fmt: skip
    config = read_config(values)
    assert config == dataclasses.replace(
        read_config(RELEASED["gemma3-4b"]), tokens=dataclasses.replace(config.tokens, eos=(1, 106))
    )
    same(config, read_config(written("Gemma3ForCausalLM", text) | {"eos_token_id": [1, 106]}), "Gemma3ForCausalLM")
    assert read_config(values | {"tie_word_embeddings": False}).tie_embeddings is False


def test_ids_of_llama() -> None:
    """1 and 2 by the class, unless the vocabulary is Llama 3's; null is none."""
    ids = read_config({"architectures": ["LlamaForCausalLM"]}).tokens
    assert (ids.bos, ids.eos, ids.turn_end) == (1, (2,), None)
    assert (
        read_config({"architectures": ["LlamaForCausalLM"], "eos_token_id": None, "vocab_size": 400}).tokens.eos == ()
    )
    assert read_config(RELEASED["llama3.1-8b"]).tokens.bos == 128000


def test_a_base_beside_rope_parameters_and_both_dialects_at_once() -> None:
    """transformers takes what rope_parameters leave out from beside them, and lets rope_scaling win."""
    name = "LlamaForCausalLM"
    for values in (
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 7e5},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 3e4},
        {"partial_rotary_factor": 0.5},
    ):
        same(read_config(values | {"architectures": [name]}), read_config(written(name, values)), name)
    local = {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}, "rope_local_base_freq": 5e4}
    for values in (local, {"rope_theta": 2e6, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}):
        name = "Gemma3ForCausalLM"
        same(read_config(values | {"architectures": [name]}), read_config(written(name, values)), name)
