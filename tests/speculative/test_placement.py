"""Draft and target over devices, round by round, and on the embedded pair: the same tokens, the same distribution."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jaxdlm as jd
from jaxdlm import cli
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import loop
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.policy import Decoding
from tests.conformance.test_loop import plain
from tests.marks import usual
from tests.speculative.test_loop import TARGET
from tests.speculative.test_methods import DRAFT, HOT, MAX_NEW, S, equal
from tests.speculative.toys import PROMPTS, distribution_of, fit

POLICIES = {
    "autoregressive": S.autoregressive(HOT),
    "speculative": S.speculative(DRAFT, k=3, temperature=HOT),
    "spectr": S.spectr(DRAFT, width=2, depth=2, temperature=HOT),
    "pearl": S.pearl(DRAFT, chunk=2, temperature=HOT),
    "easyspec": S.easyspec(DRAFT, k=3, group=2, temperature=HOT),
    "lookup": S.lookup(k=3, ngram=2),
}


def prepare(policy):
    rows, bucket = lay_out_rows(TARGET, PROMPTS[:4], max_new=MAX_NEW, seed=5, ids=None, raw=True)
    decoding = Decoding(TARGET.model, TARGET.params, policy)
    return rows, decoding, {"prompt": bucket, "max_new": MAX_NEW, "save": "commit"}


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", usual(POLICIES, "pearl"))  # a draft that stays ahead
def test_pmap_and_shard_map_over_four_devices(name):
    """One row per device; the devices run their own number of rounds. Policies are replicated, whichever they are."""
    rows, decoding, sizes = prepare(POLICIES[name])

    def outcome(rows, decoding):
        out, trace = generate.__wrapped__(rows, decoding, **sizes)
        return out.tokens, out.step, out.accepted, trace.commit_step

    whole = plain(jax.jit(outcome)(rows, decoding))
    split = jax.tree.map(lambda x: x.reshape(4, 1, *x.shape[1:]), rows)
    mapped = jax.pmap(outcome, in_axes=(0, None))(split, decoding)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b), plain(mapped), whole)
    mesh, data = Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data")
    shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=(data, PartitionSpec()), out_specs=data)
    sharded = jax.jit(shard(outcome, check_vma=False))(rows, decoding)
    jax.tree.map(np.testing.assert_array_equal, plain(sharded), whole)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_rounds_called_one_by_one_are_the_compiled_loop():
    """A program for a round, in a loop of Python; drawn numbers included."""
    rows, decoding, sizes = prepare(POLICIES["speculative"])
    begin = jax.jit(lambda rows, decoding: loop.init(rows, decoding, **sizes))
    advance = jax.jit(loop.step)
    carry = begin(rows, decoding)
    while not bool(carry.rows.done.all()):
        carry = advance(carry, decoding)
    want, trace = generate(rows, decoding, **sizes)
    equal(carry.rows._replace(key=()), want._replace(key=()))
    np.testing.assert_array_equal(carry.trace.commit_step, trace.commit_step)


def test_new_numbers_run_the_compiled_program():
    def run(seed, temperature, prompts=PROMPTS):
        policy = S.speculative(DRAFT, k=3, temperature=jnp.float32(temperature))
        return jd.decode(TARGET, prompts, policy, max_new=MAX_NEW, seed=seed)

    run(0, 1.0)
    before = generate._cache_size()
    run(7, 0.5, [prompt[::-1] for prompt in PROMPTS])
    assert generate._cache_size() == before


PROMPT, ROWS = "shuffle : [ Alan , Kate , Omar , Boris ]", 500


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["speculative", "spectr"])
def test_samples_of_the_embedded_pair_have_the_targets_distribution(method):
    """Three tokens behind one prompt: what the draft helped to draw, against the target's probabilities.

    Several chains of drafts (spectr) are held to it by test_methods, on models without words.
    """
    lm, draft = jd.load("tiny-ar"), jd.load("tiny-draft")
    # without the pads that it learnt with (half the columns) the target is unsure: a broad distribution
    ids = [token for token in lm.tokenizer.encode_prompt(PROMPT) if token != lm.config.tokens.pad]
    distribution = distribution_of(lm, ids, 3, least=5 / ROWS)
    assert len(distribution) > 8

    def p_value(policy, seed):
        out = jd.decode(lm, [ids] * ROWS, policy, max_new=4, seed=seed, save="none")
        return fit(out.tokens[:, :3], distribution)

    if method == "spectr":
        assert p_value(S.spectr(draft, width=2, depth=3, temperature=HOT), 2) > 1e-3
    else:
        assert p_value(S.speculative(draft, k=3, temperature=HOT), 1) > 1e-3
    assert p_value(S.autoregressive(0.5 * HOT), 3) < 1e-3, "another distribution is seen"


@pytest.mark.slow
def test_the_command_line_decodes_with_a_draft(capsys):
    words = ["generate", "reverse : [ Alan , Kate , Omar ]", "--model", "tiny-ar", "--json", "--max-new", "12"]
    rows = []
    for policy in ("autoregressive", "speculative,draft=tiny-draft,k=4"):
        assert cli.main([*words, "--policy", policy]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0]["tokens"] == rows[1]["tokens"] and rows[0]["text"].split() == "[ Omar , Kate , Alan ]".split()
    assert rows[1]["accepted"] > 0 and rows[1]["forwards"] < rows[0]["forwards"]
    assert cli.main([*words, "--policy", "speculative,draft=tiny,k=4"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
