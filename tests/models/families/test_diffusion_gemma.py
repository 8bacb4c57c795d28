"""DiffusionGemma's two passes over shared weights against transformers: causal prefix, then the canvas behind it."""

import copy
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxdlm._load import load
from jaxdlm.checkpoint.safetensors import write_safetensors
from jaxdlm.core.model import Past
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone
from jaxdlm.models.families.diffusion_gemma import FAMILY
from jaxdlm.models.hub_config import Hints
from tests.models import oracles
from tests.models.reading import params_of

CANVAS, WINDOW, VOCAB = 8, 8, 120
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "sliding_window": WINDOW,
    "num_experts": 8,
    "top_k_experts": 3,
    "moe_intermediate_size": 24,
    "max_position_embeddings": 256,
    "use_bidirectional_attention": "vision",
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@functools.cache
def released() -> tuple[Any, dict[str, np.ndarray]]:
    """(the oracle, its text part as a checkpoint holds it)."""
    config = transformers.DiffusionGemmaConfig(
        text_config=TEXT, vision_config={"model_type": "gemma4_vision"} | VISION, canvas_length=CANVAS
    )
    oracle = transformers.DiffusionGemmaForBlockDiffusion._from_config(config, attn_implementation="eager").eval()
    oracles.make_loud(oracle)
    files = {}
    shared = set()
    for name, tensor in oracle.state_dict().items():
        ignored = any(part in name for part in ("vision_tower", "embed_vision"))
        only_scalar = name.startswith("model.encoder") and not name.endswith("layer_scalar")
        if ignored or only_scalar or name == "lm_head.weight" or tensor.data_ptr() in shared:
            continue
        shared.add(tensor.data_ptr())
        files[name] = tensor.numpy().copy()
    return oracle, files


@functools.cache
def case() -> tuple[Any, Backbone, Any]:
    oracle, files = released()
    ours = FAMILY.read_config(oracle.config.to_dict(), Hints())
    assert ours.tokens.mask is None and ours.noise == "uniform" and ours.block_size == CANVAS
    # transformers keeps one column less than the original sampler
    ours = dataclasses.replace(ours, canvas_window=WINDOW - 1)
    return oracle, Backbone(ours), params_of(ours, files)


def prompt(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(3, VOCAB, (2, length)).astype(np.int32)


def columns(start: int, count: int) -> jax.Array:
    return jnp.tile(jnp.arange(start, start + count, dtype=jnp.int32)[None], (2, 1))


@functools.partial(jax.jit, static_argnums=0)
def prefix(model: Backbone, params: Any, tokens: Any, position: Any) -> Any:
    return model.apply(params, tokens, position, jnp.ones(tokens.shape, bool))


@functools.partial(jax.jit, static_argnums=0)
def canvas(model: Backbone, params: Any, tokens: Any, position: Any, past: Past, self_cond: Any) -> Any:
    out = model.canvas(params, tokens, position, jnp.ones(tokens.shape, bool), past, self_cond=self_cond)
    return model.head(params, out.hidden)


def said(tokens: np.ndarray, noise: np.ndarray, window: int, feedback: np.ndarray | None = None) -> Any:
    """The oracle behind a prefix of which its cache keeps, in local layers, the last `window` columns."""
    oracle, _ = released()
    kept = copy.deepcopy(oracle.config.get_text_config())
    kept.sliding_window = window + 1  # a cache of transformers keeps one column less
    with torch.no_grad():
        return oracle(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.ones(tokens.shape, dtype=torch.long),
            past_key_values=transformers.DynamicCache(config=kept),
            decoder_input_ids=torch.from_numpy(noise).long(),
            self_conditioning_logits=None if feedback is None else torch.from_numpy(feedback),
        )


@pytest.mark.slow
@pytest.mark.parametrize("length", [6, 20])
@pytest.mark.parametrize("conditioned", [False, True])
def test_prefix_and_canvas_equal_the_oracle(length: int, conditioned: bool) -> None:
    _, model, params = case()
    tokens, noise = prompt(length), prompt(CANVAS)
    feedback = np.random.default_rng(5).standard_normal((2, CANVAS, VOCAB)).astype(np.float32) if conditioned else None
    reference = said(tokens, noise, WINDOW - 1, feedback)
    out = prefix(model, params, tokens, columns(0, length))
    np.testing.assert_allclose(out.hidden, reference.encoder_last_hidden_state.numpy(), atol=1e-4, rtol=0)
    past = Past(out.kv, columns(0, length), jnp.ones((2, length), bool))
    probabilities = None if feedback is None else jax.nn.softmax(jnp.asarray(feedback), axis=-1)
    ours = canvas(model, params, noise, columns(length, CANVAS), past, probabilities)
    oracles.assert_close(np.asarray(ours), reference.logits.numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Any:
    oracle, files = released()
    folder = tmp_path_factory.mktemp("diffusion_gemma")
    oracle.config.save_pretrained(folder)
    write_safetensors(folder / "model.safetensors", files)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("stated", "window"), [({}, WINDOW), ({"canvas_window": WINDOW - 1}, WINDOW - 1)])
def test_load_sets_the_prefix_columns_that_a_canvas_sees(folder: Any, stated: dict[str, int], window: int) -> None:
    lm = load(folder, **stated)
    tokens, noise, length = prompt(20), prompt(CANVAS), 20
    past = Past(
        prefix(lm.model, lm.params, tokens, columns(0, length)).kv, columns(0, length), jnp.ones((2, length), bool)
    )
    ours = np.asarray(canvas(lm.model, lm.params, noise, columns(length, CANVAS), past, None))
    oracles.assert_close(ours, said(tokens, noise, window).logits.numpy())
    assert np.abs(ours - said(tokens, noise, 2 * WINDOW - 1 - window).logits.numpy()).max() > 1e-1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "8", 257])
def test_a_canvas_window_that_means_nothing_is_refused(folder: Any, wrong: Any) -> None:
    with pytest.raises(InputError, match=r"canvas_window=.*must be a whole number from 1 to 256"):
        load(folder, canvas_window=wrong)
    with pytest.raises(InputError, match=r"canvas_window=8 means nothing: .* has no canvas with local layers"):
        load("tiny", canvas_window=8)


@pytest.mark.slow
def test_the_canvas_sees_all_of_itself_and_the_stated_window_of_the_prefix() -> None:
    _, model, params = case()
    tokens, noise, length = prompt(20), prompt(CANVAS), 20
    position = columns(length, CANVAS)

    def run(model: Backbone, noise: np.ndarray) -> np.ndarray:
        out = prefix(model, params, tokens, columns(0, length))
        past = Past(out.kv, columns(0, length), jnp.ones((2, length), bool))
        return np.asarray(canvas(model, params, noise, position, past, None))

    changed = noise.copy()
    changed[:, -1] = (changed[:, -1] + 1) % VOCAB
    assert np.abs(run(model, changed) - run(model, noise))[:, 0].max() > 1e-2
    wider = Backbone(dataclasses.replace(model.config, canvas_window=0))
    assert np.abs(run(wider, noise) - run(model, noise)).max() > 1e-1


@pytest.mark.slow
def test_apply_with_a_past_is_the_canvas_pass() -> None:
    _, model, params = case()
    tokens, noise = prompt(6), prompt(CANVAS)
    out = prefix(model, params, tokens, columns(0, 6))
    past, valid = Past(out.kv, columns(0, 6), jnp.ones((2, 6), bool)), jnp.ones((2, CANVAS), bool)
    direct = jax.jit(model.apply)(params, noise, columns(6, CANVAS), valid, past)
    expected = canvas(model, params, noise, columns(6, CANVAS), past, None)
    np.testing.assert_allclose(model.head(params, direct.hidden), expected, atol=1e-5)


def test_released_and_rewritten_keys_of_global_layers_agree() -> None:
    layers = {f"{i}": {"head_dim": 512, "num_key_value_heads": 2} for i in (5, 11)}
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    }
    common = TEXT | {"num_hidden_layers": 12, "rope_parameters": rope, "hidden_activation": "gelu_pytorch_tanh"}
    for key in ("global_head_dim", "num_global_key_value_heads"):
        common.pop(key)
    released = common | {"global_head_dim": 512, "num_global_key_value_heads": 2}
    read = [
        FAMILY.read_config({"text_config": text}, Hints()) for text in (released, common | {"per_layer_config": layers})
    ]
    assert read[0] == read[1]
    assert (read[0].global_head_dim, read[0].global_kv_heads, read[0].final_softcap) == (512, 2, 30.0)
