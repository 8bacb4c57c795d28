"""Detection, both dialects of config.json, defaults, and refusals that name the key."""

import math
import pathlib
import re
from typing import Any

import pytest

from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models import RopeConfig, TokenIds, hub_config
from jaxdlm.models.hub_config import CONFIG, Hints
from jaxdlm.models.registry import FAMILIES, RELEASED, detect, family_named, read_config, released_config
from tests.models.configs import BASE, CONFIGS

LLADA = RELEASED["llada-8b"]
QWEN = RELEASED["qwen3-8b"] | {"model_type": "qwen3"}


@pytest.mark.parametrize(
    ("architecture", "model_type", "family"),
    [
        ("LLaDAModelLM", "llada", "llada"),
        ("LLaDAMoEModelLM", "llada", "llada_moe"),
        ("LLaDAMoEModelLM", "dllm", "llada_moe"),
        (None, "lladamoe", "llada_moe"),
        ("LLaDA2MoeModelLM", "llada2_moe", "llada2_moe"),
        (None, "llada2_moe_veomni", "llada2_moe"),
        ("DreamModel", "Dream", "dream"),
        ("DiffuCoder", "Dream", "dream"),
        ("SDARForCausalLM", "sdar", "sdar"),
        ("SDARMoeForCausalLM", "sdar_moe", "sdar_moe"),
        ("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen", "fast_dllm_v2"),
        (None, "a2d-qwen3", "a2d"),
        ("DiffusionGemmaForBlockDiffusion", "diffusion_gemma", "diffusion_gemma"),
        ("LlamaForCausalLM", "llama", "llama"),
        ("Qwen2ForCausalLM", "qwen2", "qwen2"),
        ("Qwen3ForCausalLM", "qwen3", "qwen3"),
        ("Qwen3MoeForCausalLM", "qwen3_moe", "qwen3_moe"),
        ("Gemma3ForConditionalGeneration", "gemma3", "gemma3_text"),
        ("JaxDLM", "jaxdlm", "jaxdlm"),
    ],
)
def test_detection(architecture: str | None, model_type: str, family: str) -> None:
    values: dict[str, Any] = {"model_type": model_type}
    assert detect(values | ({"architectures": [architecture]} if architecture else {})).name == family


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ConfigUnsupported, match=r"'MambaForCausalLM'.*gemma3_text, .*llada, "):
        detect({"architectures": ["MambaForCausalLM"], "model_type": "mamba"})
    with pytest.raises(InputError, match="family 'mamba' is unknown"):
        family_named("mamba")
    with pytest.raises(InputError, match="released shape 'gpt-9' is unknown"):
        released_config("gpt-9")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llada-8b", ("full", "same", "mask", 126336)),
        ("llada-moe-7b", ("full", "same", "mask", 156895)),
        ("llada2-mini", ("block_causal", "same", "mask", 156895)),
        ("dream-7b", ("full", "next", "mask", 151666)),
        ("sdar-8b", ("block_causal", "same", "mask", 151669)),
        ("fast-dllm-v2-7b", ("block_causal", "next", "mask", 151665)),
        ("a2d-qwen3-0.6b", ("full", "same", "mask", 151669)),
        ("diffusion-gemma-26b", ("prefix_canvas", "same", "uniform", None)),
        ("qwen3-8b", ("causal", "next", "none", None)),
        ("gemma3-4b", ("causal", "next", "none", None)),
    ],
)
def test_what_each_family_is_for(name: str, expected: tuple) -> None:
    config = released_config(name)
    assert (config.attention, config.prediction, config.noise, config.tokens.mask) == expected


@pytest.mark.parametrize(
    ("values", "key"),
    [
        *[(LLADA | {key: value}, key) for key, value in {
            "alibi": True, "rope": False, "block_type": "sequential", "layer_norm_type": "default",
            "activation_type": "swiglu", "attention_layer_norm": True, "input_emb_norm": True, "scale_logits": True,
            "include_bias": True, "include_qkv_bias": True, "clip_qkv": 8.0, "block_group_size": 2,
            "quantization_config": {"bits": 4}, "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        }.items()],
        (RELEASED["dream-7b"] | {"use_sliding_window": True}, "use_sliding_window"),
        (RELEASED["sdar-8b"] | {"use_sliding_window": True}, "use_sliding_window"),
        (RELEASED["llama3-8b"] | {"use_sliding_window": True}, "use_sliding_window"),
        (QWEN | {"attention_bias": True}, "attention_bias"),
        (QWEN | {"layer_types": ["sliding_attention"]}, "layer_types"),
        (QWEN | {"hidden_act": "relu"}, "hidden_act"),
        (QWEN | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e6}}, "longrope"),
        (QWEN | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        (QWEN | {"torch_dtype": "float8_e4m3fn"}, "torch_dtype"),
        (RELEASED["llada-moe-7b"] | {"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias"),
        (RELEASED["llada-moe-7b"] | {"moe_layer_freq": [0, 1]}, "moe_layer_freq"),
        (RELEASED["llada-moe-7b"] | {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
        (RELEASED["qwen3-30b-a3b"] | {"mlp_only_layers": [0]}, "mlp_only_layers"),
        (RELEASED["qwen3-30b-a3b"] | {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        (RELEASED["llada2-mini"] | {"use_qkv_bias": True}, "use_qkv_bias"),
        (RELEASED["gemma3-1b"] | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ],
)  # fmt: skip
def test_unsupported_settings_are_refused_by_name(values: dict, key: str) -> None:
    with pytest.raises(ConfigUnsupported, match=key):
        read_config(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({k: v for k, v in RELEASED["llada-moe-7b"].items() if k != "rope_theta"}, "rope_theta"),
        (RELEASED["llada-moe-7b"] | {"rope_theta": None, "rope_parameters": {"rope_type": "default"}}, "rope_theta"),
        (QWEN | {"rope_parameters": 3}, "rope_parameters=3: must be an object"),
        (QWEN | {"hidden_size": "4096"}, "hidden_size='4096': must be a whole number from 1 to 1000000"),
        (QWEN | {"rms_norm_eps": True}, "rms_norm_eps=True: must be a number above 0, at most 1"),
        (QWEN | {"tie_word_embeddings": "no"}, "tie_word_embeddings='no': must be true or false"),
        (QWEN | {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000: must be"),
        (QWEN | {"eos_token_id": "</s>"}, "config.json: eos_token_id='</s>': must be an id"),
        (QWEN | {"eos_token_id": [5, "</s>"]}, "eos_token_id=.*: must be an id or a list of ids"),
        (QWEN | {"pad_token_id": [5]}, r"pad_token_id=\[5\]: must be an id"),
        (QWEN | {"bos_token_id": True}, "bos_token_id=True: must be an id"),
        (QWEN | {"head_dim": None, "num_attention_heads": 7}, "no multiple of num_attention_heads 7"),
        (LLADA | {"n_heads": 5}, "no multiple of n_heads 5"),
        (LLADA | {"embedding_size": 300}, "no mask_token_id"),
        (LLADA | {"mask_token_id": 126464}, "tokens.mask 126464 is outside"),
        ({k: v for k, v in RELEASED["sdar-8b"].items() if k != "block_size"}, "state it"),
        ({"architectures": ["JaxDLM"]}, "has no jaxdlm"),
        (RELEASED["gemma3-1b"] | {"text_config": []}, r"text_config=\[\]: must be an object"),
    ],
)
def test_damaged_configurations_are_named(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(values)


def test_head_dim_and_kv_heads_may_be_absent() -> None:
    values = {k: v for k, v in QWEN.items() if k != "head_dim"} | {"num_key_value_heads": 0}
    config = read_config(values)
    assert (config.head_dim, config.num_kv_heads) == (128, 32)


def test_rope_in_both_dialects() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    plain = {k: v for k, v in QWEN.items() if k != "rope_theta"}
    expected = RopeConfig(theta=5e5, kind="linear", factor=2.0)
    assert read_config(plain | old).rope == read_config(plain | new).rope == expected
    assert released_config("llama3.1-8b").rope.original_max_position == 8192


def test_local_and_global_rope_in_both_dialects() -> None:
    old = RELEASED["gemma3-4b"]
    new = {k: v for k, v in old.items() if not k.startswith("rope")} | {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    assert read_config(old) == read_config(new)
    nested = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": old}
    assert read_config(nested) == read_config(old)
    assert read_config(old).kinds[:7] == ("local",) * 5 + ("global", "local")


def test_partial_rotary_factor_and_rotary_dim_agree() -> None:
    values = RELEASED["llada2-mini"]
    without = {k: v for k, v in values.items() if k != "rotary_dim"}
    assert read_config(values).rope == read_config(without).rope == RopeConfig(theta=6e5, rotary_dim=64)


def test_absent_keys_take_the_family_s_default_and_are_noted() -> None:
    hints = Hints()
    config = read_config(RELEASED["llada2-mini"], hints)
    assert config.qk_norm and config.tokens.eos == (156892, 156900)
    notes = "\n".join(hints.notes)
    assert "use_qk_norm" in notes and "mask_token_id" in notes and "156895" in notes


def test_priority_of_special_ids() -> None:
    values = RELEASED["dream-7b"] | {"mask_token_id": 5, "pad_token_id": 7, "eos_token_id": [4, 6]}
    assert read_config(values, Hints(mask=9)).tokens.mask == 9
    hints = Hints(generation={"mask_token_id": 8, "eos_token_id": [3, 4]}, added_tokens={"<|mask|>": 6})
    config = read_config(values, hints)
    assert (config.tokens.mask, config.tokens.pad) == (8, 7)
    assert config.tokens.eos == (3, 4, 6, 151645), "every end of both files, and the turn's"
    assert any("generation_config.json says 8, config.json 5" in note for note in hints.notes)
    del values["mask_token_id"]
    assert read_config(values, Hints(added_tokens={"<|mask|>": 6})).tokens.mask == 6


def test_ids_that_no_model_has_mean_absent() -> None:
    """-1 as Meta's Llama has it, in either file and every field; a pad behind the last row of the embedding."""
    values = RELEASED["dream-7b"] | {
        "pad_token_id": -1,
        "bos_token_id": -1,
        "mask_token_id": -1,
        "eos_token_id": [-1, 5],
    }
    plain = {k: v for k, v in RELEASED["dream-7b"].items() if not k.endswith("token_id")}
    absent = read_config(plain).tokens
    hints = Hints()
    found = read_config(values, hints).tokens
    assert (found.pad, found.bos, found.mask) == (absent.pad, absent.bos, absent.mask)
    assert found.eos == (5, 151645)
    assert "config.json: pad_token_id [-1] is no id of this model" in "\n".join(hints.notes)
    values = RELEASED["dream-7b"] | {"pad_token_id": values["vocab_size"], "eos_token_id": [7, 2**40]}
    generation = {"pad_token_id": -100, "bos_token_id": -1, "mask_token_id": -1, "eos_token_id": -1}
    found = read_config(values, Hints(generation=generation)).tokens
    assert (found.pad, found.mask, found.eos) == (absent.pad, absent.mask, (7, 151645))


def test_default_ids_count_only_where_the_tokenizer_has_them_as_control_tokens() -> None:
    """Under another vocabulary the family's turn end is a word, and words end nothing."""
    values = RELEASED["llama3.2-1b"] | {"eos_token_id": 11}
    assert read_config(values, Hints()).tokens.eos == (11, 128009)
    assert read_config(values, Hints(tokenizer_size=128256, added_tokens={"</s>": 11})).tokens.eos == (11,)
    assert read_config(values, Hints(tokenizer_size=128256, added_tokens={"<end>": 128009})).tokens.turn_end == 128009


def test_ends_hold_the_turn_s_end_once() -> None:
    assert TokenIds(eos=(2, 3, 2), turn_end=7).eos == (2, 3, 7)
    assert TokenIds(eos=(7, 2), turn_end=7).eos == (7, 2)


def test_block_size_of_sdar_is_stated_never_guessed() -> None:
    bare = {k: v for k, v in RELEASED["sdar-8b"].items() if k != "block_size"}
    assert read_config(bare, Hints(block_size=16)).block_size == 16
    assert read_config(bare, Hints(source="JetLM/SDAR-8B-Chat")).block_size == 4


def test_both_forms_of_a2d() -> None:
    values = RELEASED["a2d-qwen3-0.6b"]
    block = read_config(values, Hints(source="dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1"))
    assert (block.attention, block.block_size) == ("block_causal", 32)
    assert read_config(values, Hints(block_size=8)).block_size == 8
    assert read_config(values, Hints(block_size=8, attention="full")).attention == "full"
    llama = RELEASED["llama3.2-1b"] | {"architectures": ["A2DLlamaLMHeadModel"], "mask_token_id": 11}
    assert read_config(llama).tokens.mask == 11
    with pytest.raises(ConfigUnsupported, match="a2d"):
        read_config(values | {"architectures": [], "model_type": "a2d-gpt"}, family="a2d")


def test_native_round_trip() -> None:
    for config in CONFIGS.values():
        values = {"architectures": ["JaxDLM"], "model_type": "jaxdlm", "jaxdlm": config.to_json()}
        assert read_config(values) == config
    values = {"architectures": ["JaxDLM"], "jaxdlm": CONFIGS["block"].to_json()}
    assert read_config(values, Hints(block_size=2)).block_size == 2
    assert BASE.family in FAMILIES


# one release of each family, and one whose text part is nested
BASES = [
    "llada-8b", "llada-moe-7b", "llada2-mini", "dream-7b", "sdar-8b", "sdar-30b-a3b", "fast-dllm-v2-7b", "a2d-qwen3-0.6b",
    "diffusion-gemma-26b", "qwen2.5-0.5b", "qwen3-8b", "qwen3-30b-a3b", "llama3.1-8b", "gemma3-4b",
]  # fmt: skip
HOSTILE = (
    [], [1], [[]], [None], {}, {"x": 1}, "x", "", "3", True, False, 0, -1, -5, 0.5, 2**40, 3 * 10**9, 3e9, 10**30, 10**5000,
    1e400, -1e400, 1e-400, 5e-324, 1e300,
)  # fmt: skip
UNREAD = {  # keys that a release has and its family does not read
    "llada-8b": {"vocab_size"}, "diffusion-gemma-26b": {"architectures"}, "llada-moe-7b": {"intermediate_size"},
    "sdar-30b-a3b": {"intermediate_size"}, "qwen3-30b-a3b": {"intermediate_size"},
}  # fmt: skip


def places(values: dict, path: tuple = ()):
    """Where a key of the schema may stand: at the top and in every object, whether it is there or not."""
    yield from ((path, key) for key in CONFIG)
    for key, value in values.items():
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def put(values: dict, path: tuple, key: str, value: Any) -> dict:
    if not path:
        return values | {key: value}
    return values | {path[0]: put(values[path[0]], path[1:], key, value)}


def at(values: dict, path: tuple) -> dict:
    for key in path:
        values = values[key]
    return values


def test_every_key_that_is_read_has_a_kind() -> None:
    source = pathlib.Path(hub_config.__file__)
    for file in (source, *source.with_name("families").glob("*.py")):
        read = re.findall(r'(?:fields|entry|numbers|stated|canvas|self|hints\))\.get\(\s*"(\w+)"', file.read_text())
        assert set(read) <= set(CONFIG), file.name


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_no_key_gets_by_with_what_it_is_not(name: str) -> None:
    """Whatever stands under a key, there is a configuration or one line that names the key."""
    values = RELEASED[name]
    for path, key in places(values):
        for value in HOSTILE:
            try:
                read_config(put(values, path, key, value))
            except InputError as error:
                line = str(error)
                assert "\n" not in line and len(line) < 600
                continue
            known = key in at(values, path) and key not in UNREAD.get(name, ())
            if known:
                CONFIG[key](value, key)  # what is read is of the key's kind


@pytest.mark.parametrize(
    ("base", "change", "line"),
    [
        ("llada-8b", {"rope_theta": 0}, "config.json: rope_theta=0: must be a number above 0"),
        ("llada-8b", {"rms_norm_eps": 1e400}, "config.json: rms_norm_eps=inf: must be a number above 0, at most 1"),
        ("llada-8b", {"n_heads": [32]}, r"config.json: n_heads=\[32\]: must be a whole number from 1 to 4096"),
        ("llada-8b", {"mlp_hidden_size": None, "mlp_ratio": 1e400}, "config.json: mlp_ratio=inf: must be"),
        ("gemma3-4b", {"query_pre_attn_scalar": 0}, "config.json: query_pre_attn_scalar=0: must be a number above 0"),
        ("gemma3-4b", {"sliding_window_pattern": 0}, "config.json: sliding_window_pattern=0: must be a whole number from 1"),
        ("gemma3-4b", {"final_logit_softcapping": "30"}, "config.json: final_logit_softcapping='30': must be a number"),
        ("gemma3-4b", {"layer_types": [[]]}, r"config.json: layer_types\[0\]=\[\]: must be a string"),
        ("gemma3-4b", {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope_scaling.factor=0: must be a number above"),
        ("gemma3-4b", {"rope_scaling": {"rope_type": []}}, r"rope_scaling.rope_type=\[\]: must be a string"),
        ("sdar-8b", {"block_size": 3 * 10**9}, "config.json: block_size=3000000000: must be a whole number from 1 to"),
        ("sdar-8b", {"block_size": 3e9}, "config.json: block_size=3000000000.0: must be a whole number from 1 to"),
        ("a2d-qwen3-0.6b", {"block_size": "8"}, "config.json: block_size='8': must be a whole number"),
        ("diffusion-gemma-26b", {"canvas_length": "abc"}, "config.json: canvas_length='abc': must be a whole number"),
        ("llada-moe-7b", {"moe_layer_freq": 5}, "config.json: moe_layer_freq=5: must be a list"),
        ("llada2-mini", {"n_group": 0}, "config.json: n_group=0: must be a whole number from 1"),
        ("qwen3-8b", {"hidden_act": []}, r"config.json: hidden_act=\[\]: must be a string"),
        ("qwen3-8b", {"torch_dtype": 5}, "config.json: torch_dtype=5: must be a string"),
        ("qwen3-8b", {"architectures": "Qwen3ForCausalLM"}, "config.json: architectures='Qwen3ForCausalLM': must be a list"),
        ("qwen3-8b", {"mask_token_id": 5.0, "architectures": ["DreamModel"]}, "mask_token_id"),
        ("llama3.1-8b", {"rope_scaling": RELEASED["llama3.1-8b"]["rope_scaling"] | {"high_freq_factor": 1.0}}, "must be below"),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_named_with_what_it_must_be(base: str, change: dict, line: str) -> None:
    with pytest.raises(InputError, match=line):
        read_config(RELEASED[base] | change)


def test_yarn_is_read_as_transformers_reads_it() -> None:
    """The original positions are those stated, else all; what yarn reaches counts, where it is more."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    grown = RopeConfig(
        theta=1e6, kind="yarn", factor=4.0, original_max_position=32768, attention_factor=0.1 * math.log(4) + 1
    )
    stated = RELEASED["qwen2.5-7b"] | {"rope_theta": 1e6, "max_position_embeddings": 32768}
    config = read_config(stated | {"rope_scaling": scaling}, hints := Hints())
    assert config.rope == grown and config.max_position == 131072
    assert any("yarn reaches 131072 positions" in note for note in hints.notes)
    assert read_config(stated | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}).rope == grown
    every = {"mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 16, "truncate": False, "factor": None}
    read = read_config(stated | {"max_position_embeddings": 262144, "rope_scaling": scaling | every}).rope
    assert (read.factor, read.attention_factor, read.beta_fast, read.truncate) == (8.0, 1.0, 16, False)
    for name in (
        "sdar-8b",
        "dream-7b",
        "qwen3-30b-a3b",
        "llada2-mini",
        "fast-dllm-v2-7b",
        "a2d-qwen3-0.6b",
        "llama3-8b",
    ):
        rope = read_config(RELEASED[name] | {"rope_scaling": scaling}).rope
        assert (rope.kind, rope.factor, rope.rotary_dim) == ("yarn", 4.0, 64 if name == "llada2-mini" else None), name


def test_windows_are_those_of_the_layers_that_the_class_gives_them() -> None:
    on = {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 20}
    qwen = read_config(RELEASED["qwen2.5-0.5b"] | on)
    assert qwen.layer_kinds == ("global",) * 20 + ("local",) * 4 and qwen.sliding_window == 512
    assert read_config(QWEN | {"use_sliding_window": True}).layer_kinds == ("global",) * 28 + ("local",) * 8, (
        "its class's"
    )
    assert read_config(RELEASED["qwen3-30b-a3b"] | on).layer_kinds == ("local",) * 48, "a mixture: all"
    for off in ({"use_sliding_window": False}, {"sliding_window": None}, {"max_window_layers": 24}):
        assert read_config(RELEASED["qwen2.5-0.5b"] | on | off).layer_kinds == ()
    kinds = ["full_attention", "sliding_attention"] * 12
    assert read_config(RELEASED["qwen2.5-0.5b"] | on | {"layer_types": kinds}).layer_kinds == ("global", "local") * 12
