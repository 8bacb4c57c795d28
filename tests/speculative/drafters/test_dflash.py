"""DFlash's block is that of an oracle that keeps no keys, round after round; drafters of other targets are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode
from jaxdlm import speculative as S
from jaxdlm.layout import lay_out_rows
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative import heads, loop, verify
from jaxdlm.speculative.drafters.dflash import SHARED, blank, drafting, layers_of, untrained
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.warp import warp
from tests.speculative.drafters.test_eagle import norm, shown, turned
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, model

ROUNDS = 4


def block_logits(drafter, known: list[int]) -> np.ndarray:
    """Logits of the masks behind a text, from what the target shows of all of it but the last token."""
    w = {name: np.asarray(leaf, np.float64) for name, leaf in drafter.leaves.items()}
    behind, words = shown(known)
    c = norm(np.concatenate([behind[tap] for tap in drafter.taps], -1)[:-1] @ w["fc"], w["hidden_norm"])
    x = np.concatenate([words[-1:], np.repeat(w["mask"][None], drafter.width - 1, axis=0)])
    for layer in range(drafter.config.num_layers):
        own = {name: leaf[layer] for name, leaf in w.items() if name not in SHARED}
        u = norm(x, own["attn_norm"])
        q, k, v = (np.einsum("td,dnh->tnh", np.concatenate([c, u]), own[name]) for name in ("wq", "wk", "wv"))
        q, k = turned(norm(q, own["q_norm"]))[len(c) :], turned(norm(k, own["k_norm"]))
        k, v = (np.repeat(each, q.shape[1] // each.shape[1], axis=1) for each in (k, v))
        score = np.einsum("tnh,snh->nts", q, k) / np.sqrt(q.shape[-1])
        share = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x = x + np.einsum("nts,snh,nhd->td", share, v, own["wo"])
        z = norm(x, own["mlp_norm"])
        gate = z @ own["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (z @ own["up"])) @ own["down"]
    hidden = jnp.asarray(norm(x, w["norm"])[1:], jnp.float32)
    return np.asarray(TARGET.model.head(TARGET.params, hidden))


@pytest.mark.slow
def test_drafts_are_those_of_a_block_without_a_cache():
    """Of every row and round; what the context has of columns that are not read is poisoned first, and changes nothing."""
    drafter = untrained(TARGET, warp(jnp.float32(0)))
    policy = Speculation(drafter, warp(jnp.float32(0)), verify.rejection)
    rows, prompt = lay_out_rows(TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(TARGET.model, TARGET.params, policy)
    carry = jax.jit(lambda: loop.init(rows, decoding, prompt=prompt, max_new=MAX_NEW, save="none"))()

    @jax.jit
    def once(carry):
        column = jnp.arange(rows.tokens.shape[1])[None, None, :, None, None]
        unseen = column >= carry.rows.length[None, :, None, None, None] - 1
        carry = carry._replace(drafter=jax.tree.map(lambda leaf: jnp.where(unseen, 1e3, leaf), carry.drafter))
        proposal, _ = loop.drafter_of(decoding, carry.kv).propose(carry.drafter, carry.rows, carry.rows.key)
        return proposal, loop.step(carry, decoding)

    for _ in range(ROUNDS):
        before = carry.rows
        proposal, carry = once(carry)
        for row in np.flatnonzero(~np.asarray(before.done)):
            known = np.asarray(before.tokens)[row, : int(before.length[row])].tolist()
            logits = block_logits(drafter, known)
            assert np.asarray(proposal.token)[row].tolist() == logits.argmax(1).tolist()


def test_layers_that_are_read_are_the_released_ones():
    wanted = {
        28: (1, 7, 13, 19, 25), 36: (1, 9, 17, 25, 33), 40: (1, 10, 19, 28, 37), 48: (1, 12, 23, 34, 45),
        64: (1, 16, 31, 46, 61),
    }  # fmt: skip
    assert {count: layers_of(5, count) for count in wanted} == wanted
    assert layers_of(8, 40) == (1, 6, 11, 16, 22, 27, 32, 37)
    assert all(0 <= tap < count for count in range(1, 9) for draft in range(1, 6) for tap in layers_of(draft, count))


def test_drafters_of_other_targets_and_damaged_files_are_refused(tmp_path):
    from jaxdlm.checkpoint.safetensors import read_safetensors, write_safetensors

    again = "train one with scripts/train.py --recipe dflash --model toy"
    run = functools.partial(decode, TARGET, PROMPTS, max_new=MAX_NEW)
    one = untrained(TARGET, warp())
    for drafter, message in (
        (one.replace(made_for=fingerprint(model(8).params)), f"trained for another target than toy: {again}"),
        (one.replace(leaves=one.leaves | {"fc": jnp.zeros((32, 24))}), f"of size 16, target toy has 24: {again}"),
        (one.replace(taps=(0, 2)), "reads layers 0, 2 of its target, and toy has 2, from 0 on"),
    ):
        with pytest.raises(InputError, match=message):
            run(Speculation(drafter, warp(), verify.greedy))
    trained = blank(TARGET, feed=16, layers=2, taps=2, width=4)._replace(made_for="abc")
    file = tmp_path / "drafter"
    heads.write_trained(file, "dflash", trained, np.float32)
    back = heads.read_trained(file, "dflash")
    assert back[1:] == trained[1:] and back.leaves.keys() == trained.leaves.keys()
    for leaf, value in trained.leaves.items():
        np.testing.assert_array_equal(back.leaves[leaf], value)
    assert drafting(back, warp(), 3).width == 3
    with pytest.raises(InputError, match="width=5: this drafter was trained on blocks of 4, use at most that"):
        S.dflash(file, width=5)
    tensors, notes = read_safetensors(file)
    unmasked = {name: value for name, value in tensors.items() if name != "mask_embedding"}
    lost = {name: value for name, value in tensors.items() if name != "layers.1.mlp.up_proj.weight"}
    for number, (damaged, more, message) in enumerate((
        (lost, {}, "is no dflash head: layers.1.mlp.up_proj.weight is missing"),
        (tensors | {"layers.2.mlp.up_proj.weight": tensors["norm.weight"]}, {}, "layers.2.mlp.up_proj.weight is not of it"),
        (tensors, {"block_size": "no"}, "states no block_size, which a dflash head needs"),
            (tensors, {"block_size": "66"}, "block_size=66: a drafter's blocks have 2 to 65 tokens"),
            (unmasked, {"mask_token_id": "23"}, "mask_token_id=23"),
        (tensors | {"layers.0.self_attn.q_norm.weight": np.ones(5, np.float32)}, {}, r"has \(5,\), its sizes say \(12,\)"),
    )):  # fmt: skip
        write_safetensors(tmp_path / f"damaged{number}", damaged, notes | more)
        with pytest.raises(InputError, match=message):
            S.dflash(tmp_path / f"damaged{number}")
