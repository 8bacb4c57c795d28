"""The reference decoders against the library's loop, on the shipped models."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.eval.task import make
from jaxdlm.eval.tasks import vocab
from jaxdlm.train.data import prompt_ids
from jaxdlm.train.measure import decode_causal, decode_masked, gates

EXAMPLES = [make(name, 1, "test", 3)[0] for name in ("copy", "reverse", "replace_index", "add")]
PROMPTS = [prompt_ids(tuple(vocab.words(example.prompt))) for example in EXAMPLES]


@pytest.mark.slow
@pytest.mark.parametrize(("canvas", "block"), [(16, 16), (24, 8)])
def test_low_confidence_one_token_per_forward(canvas, block):
    lm = jd.load("tiny")
    want = decode_masked(lm.model, lm.params, jnp.asarray(PROMPTS, jnp.int32), canvas, block)
    out = jd.decode(lm, PROMPTS, policy="low_confidence", max_new=canvas, block=block)
    np.testing.assert_array_equal(np.asarray(out.tokens), np.asarray(want))


def test_a_string_and_its_ids_decode_alike():
    lm = jd.load("tiny")
    by_text = jd.decode(lm, [example.prompt for example in EXAMPLES], policy="low_confidence", max_new=16, block=16)
    by_ids = jd.decode(lm, PROMPTS, policy="low_confidence", max_new=16, block=16)
    np.testing.assert_array_equal(np.asarray(by_text.tokens), np.asarray(by_ids.tokens))
    assert by_text.text[0] == EXAMPLES[0].answer


def test_causal_decoding_is_greedy():
    lm = jd.load("tiny-draft")
    prompt = jnp.asarray(PROMPTS, jnp.int32)
    out = np.asarray(decode_causal(lm.model, lm.params, prompt, 12))
    rows = np.asarray(lm.logits(np.concatenate([np.asarray(prompt), out], axis=1).tolist()))
    np.testing.assert_array_equal(rows[:, 31:43].argmax(-1), out)


def test_gates_need_every_setting():
    table = {"a": {"copy": {"correct": 0.95}, "add": {"correct": 0.7}}, "b": {"copy": {"correct": 0.89}}}
    passed = gates(table)
    assert not passed["copy"] and passed["add"] and not passed["gsm"]
