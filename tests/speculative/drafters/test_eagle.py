"""EAGLE's trees are those of an oracle that keeps no keys and no tree; heads of other targets are refused."""

import dataclasses
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
from jaxdlm.speculative.drafters.eagle import KINDS, blank, drafting, untrained
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.warp import warp
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, VOCAB, model

EPS = 1e-6


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


def turned(x: np.ndarray) -> np.ndarray:
    """Rotary embedding of [T, N, H] at positions 0, 1, ..."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(half) / half)[None, :]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    one, two = x[..., :half], x[..., half:]
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


def shown(tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(residual stream behind each layer [2, T, D], embeddings [T, D]) of one text, without a cache."""
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(tokens)] = tokens
    behind, words = _shown(jnp.asarray(padded))
    return np.asarray(behind, np.float64)[:, 0, : len(tokens)], np.asarray(words, np.float64)[0, : len(tokens)]


@jax.jit
def _shown(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    position = jnp.arange(32, dtype=jnp.int32)[None]
    run = lambda last: TARGET.model.part(TARGET.params, tokens, position, position >= 0, None, 0, last)[0]  # noqa: E731
    return jnp.stack([run(1), run(2)]), TARGET.model.embed(TARGET.params, tokens)


def chain_law(drafter, known: list[int], path: list[int]) -> np.ndarray:
    """log q of what follows `known + path`: pairs of the known text by the target's features, of the path by the head's."""
    w = {name: np.asarray(leaf, np.float64) for name, leaf in drafter.leaves.items()}
    eagle3 = "ids" in w
    final, embed = np.asarray(TARGET.params["final_norm"], np.float64), np.asarray(TARGET.params["embed"], np.float64)
    behind, _ = shown(known)
    if eagle3:
        feature = np.concatenate([behind[tap] for tap in drafter.taps], -1) @ w["fc"]
    else:
        feature = norm(behind[drafter.taps[0]], final)
    feature, text = feature[:-1], known  # of the last token there is none yet
    for number in range(len(path) + 1):
        word = embed[text[1 : len(feature) + 1]]
        if eagle3:
            x, z = feature, np.concatenate([norm(word, w["embed_norm"]), norm(feature, w["hidden_norm"])], -1)
        else:
            x = np.concatenate([word, feature], -1) @ w["fc"] + w["fc_bias"]
            z = norm(x, w["attn_norm"])
        q, k, v = (np.einsum("td,dnh->tnh", z, w[name]) for name in ("wq", "wk", "wv"))
        q, k = turned(q), turned(k)
        k, v = (np.repeat(each, q.shape[1] // each.shape[1], axis=1) for each in (k, v))
        score = np.einsum("tnh,snh->nts", q, k) / np.sqrt(q.shape[-1])
        score = np.where(np.tri(len(z), dtype=bool), score, -np.inf)
        share = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        out = x + np.einsum("nts,snh,nhd->td", share, v, w["wo"])
        u = norm(out, w["mlp_norm"])
        gate = u @ w["gate"]
        out = out + (gate / (1 + np.exp(-gate)) * (u @ w["up"])) @ w["down"]
        feature, text = np.concatenate([feature, out[-1:]]), [*text, *path[number : number + 1]]
    if eagle3:
        logits = np.full(VOCAB, -np.inf)
        logits[np.asarray(drafter.leaves["ids"])] = norm(out[-1], w["norm"]) @ w["lm_head"]
    else:
        logits = np.asarray(TARGET.model.head(TARGET.params, jnp.asarray(out[-1], jnp.float32)), np.float64)
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def tree_of(drafter, known: list[int]) -> dict[tuple[int, ...], float]:
    """The likeliest paths behind a text and their scores, level by level from laws of whole texts."""
    level, every = {(): 0.0}, {}
    for _ in range(drafter.depth):
        below = {}
        for path, score in level.items():
            law = chain_law(drafter, known, list(path))
            for token in np.argsort(-law, kind="stable")[: drafter.width]:
                below[*path, int(token)] = score + law[token]
        every |= below
        level = dict(sorted(below.items(), key=lambda each: -each[1])[: drafter.width])
    return dict(sorted(every.items(), key=lambda each: -each[1])[: drafter.nodes])


def paths_of(token: np.ndarray, parent: np.ndarray, valid: np.ndarray) -> set[tuple[int, ...]]:
    paths = []
    for node in range(len(token)):
        assert parent[node] < node, "parents first"
        paths.append((*(paths[parent[node]] if parent[node] >= 0 else ()), int(token[node])))
    return {path for path, ok in zip(paths, valid) if ok}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trees_are_the_likeliest_paths_of_laws_without_a_cache(kind):
    """At the start and after each of seven rounds, which commit one token in some rows and more in others."""
    drafter = untrained(KINDS[kind], TARGET)
    policy = Speculation(drafter, warp(jnp.float32(0), noise="shared"), verify.greedy)
    rows, prompt = lay_out_rows(TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(TARGET.model, TARGET.params, policy)
    carry = jax.jit(lambda: loop.init(rows, decoding, prompt=prompt, max_new=MAX_NEW, save="none"))()

    @jax.jit
    def once(carry):
        proposal, _ = loop.drafter_of(decoding, carry.kv).propose(carry.drafter, carry.rows, carry.rows.key)
        return proposal, loop.step(carry, decoding)

    grew = set()
    for _ in range(8):
        before = carry.rows
        proposal, carry = once(carry)
        for row in np.flatnonzero(~np.asarray(before.done)):
            known = np.asarray(before.tokens)[row, : int(before.length[row])].tolist()
            own = (np.asarray(leaf)[row] for leaf in (proposal.token, proposal.parent, proposal.valid))
            assert paths_of(*own) == (set(tree_of(drafter, known)) if len(known) > 1 else set())
            grew.add(int(carry.rows.length[row] - before.length[row]))
    assert grew > {1}, "some rounds commit more than one token"


def test_heads_of_other_targets_are_refused():
    again = "train one with scripts/train.py --recipe eagle3 --model toy"
    run = functools.partial(decode, TARGET, PROMPTS, max_new=MAX_NEW)
    policy = lambda drafter: Speculation(drafter, warp(noise="shared"), verify.greedy)  # noqa: E731
    one = untrained(KINDS["eagle3"], TARGET)
    for drafter, message in (
        (
            dataclasses.replace(one, made_for=fingerprint(model(8).params)),
            f"trained for another target than toy: {again}",
        ),
        (
            dataclasses.replace(one, leaves=one.leaves | {"fc": jnp.zeros((32, 24))}),
            f"of size 16, target toy has 24: {again}",
        ),
        (dataclasses.replace(one, vocab=29), f"made for 29 words, target toy has 23: {again}"),
        (dataclasses.replace(one, taps=(0, 7)), "reads layers 0, 7 of its target, and toy has 2, from 0 on"),
    ):
        with pytest.raises(InputError, match=message):
            run(policy(drafter))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_head_back(kind, tmp_path):
    trained = blank(KINDS[kind], TARGET, feed=16, words=np.array([0, 3, 4, 9, 22], np.int32))._replace(made_for="abc")
    heads.write_trained(tmp_path / "head", kind, trained, np.float32)
    back = heads.read_trained(tmp_path / "head", kind)
    assert back[1:] == trained[1:] and back.leaves.keys() == trained.leaves.keys()
    for leaf, value in trained.leaves.items():
        np.testing.assert_array_equal(back.leaves[leaf], value)
    assert drafting(KINDS[kind], back) is not None


def test_files_that_hold_no_head_are_refused(tmp_path):
    from jaxdlm.checkpoint.safetensors import read_safetensors, write_safetensors

    file = tmp_path / "head"
    with pytest.raises(InputError, match=r"weights=.*must be a file of scripts/train.py --recipe eagle2"):
        S.eagle2(file)
    trained = blank(KINDS["eagle3"], TARGET, feed=16, words=np.array([0, 3, 4, 9, 22], np.int32))
    heads.write_trained(file, "eagle3", trained, np.float32)
    tensors, notes = read_safetensors(file)
    with pytest.raises(InputError, match="is no eagle2 head"):
        S.eagle2(file)
    maps = "its vocabulary maps do not fit: d2t must lead the 5 rows of lm_head to the ids"
    for number, (changes, message) in enumerate((
        ({"d2t": tensors["d2t"][::-1]}, maps),
        ({"d2t": tensors["d2t"][:4]}, maps),
        ({"t2d": ~tensors["t2d"]}, maps),
        ({"d2t": tensors["d2t"] + 100}, maps),
        ({"norm.weight": None}, "norm.weight is missing"),
        ({"embed_tokens.weight": tensors["fc.weight"]}, "embed_tokens.weight is not of it"),
        ({"midlayer.mlp.up_proj.weight": np.zeros((3, 24), np.float32)}, r"has \(24, 3\), its sizes say \(24, 16\)"),
        ({"norm.weight": np.full(24, np.nan, np.float32)}, "not finite"),
    )):  # fmt: skip
        damaged = {
            name: np.ascontiguousarray(value) for name, value in (tensors | changes).items() if value is not None
        }
        write_safetensors(tmp_path / f"damaged{number}", damaged, notes)
        with pytest.raises(InputError, match=message):
            S.eagle3(tmp_path / f"damaged{number}")
    write_safetensors(file, tensors, {})
    with pytest.raises(InputError, match="is no eagle3 head"):
        S.eagle3(file)
    with pytest.raises(InputError, match="nodes=65"):
        S.eagle3(nodes=65)
