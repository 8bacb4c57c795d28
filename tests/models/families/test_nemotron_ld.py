"""Nemotron-Labs-Diffusion: both passes against Ministral 3 of transformers, and blocks of masks against a slow loop."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.core.model import Past
from jaxdlm.eval.likelihood import Pair, score
from jaxdlm.models import Backbone
from jaxdlm.models.registry import FAMILIES, detect, read_config
from tests.convert.folders import hub_folder
from tests.models import oracles

BLOCK = 8


def columns(first: int, count: int) -> jax.Array:
    return jnp.tile(jnp.arange(first, first + count, dtype=jnp.int32)[None], (2, 1))


@functools.partial(jax.jit, static_argnums=0)
def prefix(model: Backbone, params: Any, tokens: Any) -> Any:
    out = model.prefix(params, tokens, columns(0, tokens.shape[1]), jnp.ones(tokens.shape, bool))
    return out.kv, model.head(params, out.hidden)


@functools.partial(jax.jit, static_argnums=0)
def canvas(model: Backbone, params: Any, tokens: Any, kv: Any, before: int) -> Any:
    past = Past(kv, columns(0, kv.k[0][0].shape[2]), columns(0, kv.k[0][0].shape[2]) < before)
    position = before + columns(0, tokens.shape[1])
    return model.head(params, model.canvas(params, tokens, position, jnp.ones(tokens.shape, bool), past).hidden)


@pytest.mark.slow
@pytest.mark.parametrize("length", [5, 16, 29])
def test_a_canvas_behind_a_causal_prefix_equals_ministral(length: int) -> None:
    """Also where queries are sharpened (past 16 positions) and where the canvas reaches over such a place."""
    case = oracles.case("nemotron_ld")
    assert case.config.masked_canvas and case.config.rope.query_beta == 0.1
    tokens = np.random.default_rng(length).integers(3, 190, (2, length + BLOCK)).astype(np.int32)
    tokens[:, length + 2 : length + 6] = oracles.MASK_ID
    see = np.tril(np.ones((length + BLOCK, length + BLOCK), bool))
    see[length:] = True
    mask = torch.zeros(see.shape).masked_fill(~torch.from_numpy(see), torch.finfo(torch.float32).min)
    with torch.no_grad():
        theirs = case.oracle(
            input_ids=torch.from_numpy(tokens).long(), attention_mask=mask[None, None].expand(2, 1, -1, -1), use_cache=False
        ).logits.numpy()  # fmt: skip
    kv, behind = prefix(case.model, case.params, jnp.asarray(tokens[:, :length]))
    oracles.assert_close(np.asarray(behind), theirs[:, :length])
    ours = canvas(case.model, case.params, jnp.asarray(tokens[:, length:]), kv, length)
    oracles.assert_close(np.asarray(ours), theirs[:, length:])


def slow(case: oracles.Case, prompt: list[int], tau: float, blocks: int) -> tuple[list[int], int]:
    """The released loop, without its first token from the causal pass: commit what reaches tau, and the surest."""
    tokens, forwards = list(prompt), 0
    for _ in range(blocks):
        kv, _ = prefix(case.model, case.params, jnp.asarray([tokens, tokens]))
        block = np.full(BLOCK, oracles.MASK_ID, np.int32)
        while (block == oracles.MASK_ID).any():
            logits = np.array(canvas(case.model, case.params, jnp.asarray([block, block]), kv, len(tokens))[0])
            logits[:, oracles.MASK_ID] = -np.inf
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            sure = np.where(block == oracles.MASK_ID, p.max(-1), -1)
            write = (sure >= tau) | (np.arange(BLOCK) == sure.argmax())
            block = np.where(write & (block == oracles.MASK_ID), logits.argmax(-1), block)
            forwards += 1
        tokens += block.tolist()
    return tokens[len(prompt) :], forwards


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["encoder", "none"])
def test_blocks_of_masks_are_those_of_a_slow_loop(cache: str) -> None:
    case = oracles.case("nemotron_ld")
    prompts = [[5, 9, 31, 7, 12], [44, 3, 150]]
    lm = LM(case.model, case.params, None, "x")
    out = jd.decode(lm, prompts, policy="threshold,tau=0.02", cache=cache, max_new=2 * BLOCK, stop=False)
    for row, prompt in enumerate(prompts):
        tokens, forwards = slow(case, prompt, 0.02, 2)
        assert (out.tokens[row].tolist(), out.forwards[row]) == (tokens, forwards)


@pytest.mark.slow
def test_one_checkpoint_has_two_modes(tmp_path: Any) -> None:
    case = oracles.case("nemotron_ld")
    folder = hub_folder(tmp_path, case.files, case.values)
    lm = jd.load(folder, family="nemotron_ld_ar")
    assert (lm.config.attention, lm.config.prediction, lm.config.noise) == ("causal", "next", "none")
    data = oracles.batch()
    theirs = oracles.oracle_logits(case, data)
    np.testing.assert_allclose(lm.logits(data.tokens)[0], theirs[0], atol=1e-4)
    assert jd.decode(lm, [[5, 9, 31]], policy="autoregressive", max_new=4).tokens[0, 0] >= 0
    assert jd.load(folder).config.masked_canvas


REFUSED = {
    "whole canvas": ({"policy": "prophet"}, "reads one block at a time"),
    "cache": ({"cache": "prefix"}, "use cache='encoder' or 'none'"),
    "versions": ({"policy": "freedave"}, "reads one block at a time"),
    "shadows": ({"policy": "wino"}, "reads one block at a time"),
    "lengths": ({"policy": "daedal"}, "reads one block at a time"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_block_behind_a_prefix_cannot_do_is_refused(name: str) -> None:
    case = oracles.case("nemotron_ld")
    arguments, message = REFUSED[name]
    with pytest.raises(jd.InputError, match=message):
        jd.decode(LM(case.model, case.params, None, "x"), [[5, 9]], max_new=BLOCK, **arguments)


def test_masks_behind_a_prefix_are_no_likelihood_and_no_answer() -> None:
    case = oracles.case("nemotron_ld")
    lm = LM(case.model, case.params, None, "x")
    with pytest.raises(jd.InputError, match="family='nemotron_ld_ar'"):
        score(lm, [Pair((5, 9), (7,))], draws=1)
    with pytest.raises(jd.InputError, match="family='nemotron_ld_ar'"):
        jd.decide(lm, [[5, 9]], jd.Choice("c", ["a", "b"]))


def test_released_files_are_read_as_they_are() -> None:
    sizes = {"nemotron-ld-3b": 3_831_659_520, "nemotron-ld-8b": 8_489_553_920, "nemotron-ld-14b": 13_506_073_600}
    values = FAMILIES["nemotron_ld"].released
    for name, parameters in sizes.items():
        config = read_config(values[name])
        assert detect(values[name]).name == "nemotron_ld" and config.head_dim * config.num_heads == 4096
        maps = FAMILIES["nemotron_ld"].tensors(config)
        assert sum(int(np.prod(entry.source_shape)) for entry in maps) == parameters
        assert (config.rope.attention_factor, config.tokens.mask, config.block_size) == (1.0, 100, 32)
    base = values["nemotron-ld-3b"]
    shorter = read_config(
        base | {"rope_parameters": base["rope_parameters"] | {"factor": 0.25}, "max_position_embeddings": 4096}
    )
    assert (shorter.rope.factor, shorter.max_position) == (0.25, 4096)


@pytest.mark.parametrize("prefix", ["model.encoder.", "language_model."])
def test_other_names_of_the_same_tensors(prefix: str) -> None:
    case = oracles.case("nemotron_ld")
    files = {name.replace("encoder.", prefix, 1): x for name, x in case.files.items()}
    if prefix == "language_model.":
        files["language_model.diffusion_head.weight"] = files.pop("diffusion_head.weight")
    names = {name for entry in FAMILIES["nemotron_ld"].tensors(case.config, set(files)) for name in entry.sources}
    assert names == set(files)


def test_queries_are_sharper_by_the_period() -> None:
    from jaxdlm.models.rope import rotation

    rope = read_config(FAMILIES["nemotron_ld"].released["nemotron-ld-3b"]).rope
    turn = rotation(dataclasses.replace(rope), 8, jnp.asarray([[0, 16383, 16384, 32768, 131072]], jnp.int32))
    np.testing.assert_allclose(turn.query[0, :, 0, 0], [1, 1, 1.06931, 1.10986, 1.21972], rtol=1e-5)
