"""Lengths that are known before anything is written: the head's numbers, canvases of one's own, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm.layout import bucket_of
from jaxdlm.lengths import CountingHead, canvas_of, features, length_logits, quantile_columns
from tests.conformance.toy_models import model
from tests.speculative import toys

TEXTS = [[3, 9, 4, 1], [7, 2, 11, 5, 8, 13, 6], [12, 30, 21]]


def head(width: int = 64, classes: int = 5) -> CountingHead:
    """Untrained."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(0, 1, shape).astype(np.float32)  # noqa: E731
    return CountingHead(draw(width), np.exp(draw(width)), draw(width, 8), draw(8), draw(8, classes), draw(classes))


def test_canvases_are_few_and_hold_what_they_are_for():
    asked, wanted = (1, 8, 9, 12, 13, 16, 17, 24, 25, 33, 96, 97), [8, 8, 12, 12, 16, 16, 24, 24, 32, 48, 96, 128]
    assert [canvas_of(n) for n in asked] == wanted
    assert all(n <= canvas_of(n) <= max(8, 3 * n / 2) for n in range(1, 400))
    assert len({canvas_of(n) for n in range(1, 1025)}) == 15


def test_quantiles_against_a_sum_by_hand():
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.97, 0.01, 0.01, 0.01], [0, 0, 0, 1.0]])
    for quantile, wanted in ((0.3, [2, 1, 4]), (0.31, [3, 1, 4]), (0.98, [4, 2, 4])):
        np.testing.assert_array_equal(quantile_columns(np.log(p + 1e-30).astype(np.float32), quantile), wanted)


def test_the_head_is_the_perceptron_that_it_says():
    weights, x = head(6), np.random.default_rng(0).normal(0, 1, (3, 6)).astype(np.float32)
    z = (x - weights.mean) / weights.spread @ weights.w1 + weights.b1
    gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    np.testing.assert_allclose(
        length_logits(weights, jnp.asarray(x)), gelu @ weights.w2 + weights.b2, rtol=1e-4, atol=1e-4
    )


def test_features_are_the_mean_and_the_last_hidden_state_of_the_prompt_alone():
    lm = model("same")
    made = features(lm, [np.array(text, np.int32) for text in TEXTS])
    tokens = jnp.asarray(np.pad(TEXTS[1], (9, 0)), jnp.int32)[None]
    column = jnp.arange(16, dtype=jnp.int32)[None] - 9
    hidden = np.asarray(lm.model.apply(lm.params, tokens, jnp.maximum(column, 0), column >= 0).hidden)[0, 9:]
    np.testing.assert_allclose(made[1], np.concatenate([hidden.mean(0), hidden[-1]]), rtol=1e-4, atol=1e-5)
    assert bucket_of(7) == 16 and len(np.unique(made.round(3), axis=0)) == 3


def test_a_prior_is_a_number_for_each_prompt():
    lm = model("same")
    made = jd.length_prior(lm, TEXTS, weights=head(), quantile=0.9, most=6)
    logits = np.asarray(length_logits(head(), jnp.asarray(features(lm, [np.array(t, np.int32) for t in TEXTS]))))
    assert made == [min(6, canvas_of(n)) for n in quantile_columns(logits, 0.9)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"quantile": 0}, "quantile=0"), ({"quantile": 1.5}, "quantile=1.5"), ({"most": 0}, "most=0"),
     ({"weights": head(6)}, "trained for another model than toy-same.*--recipe length_prior"),
     ({"weights": "tiny"}, "trained for another model than toy-same.*--recipe length_prior"),
     ({"weights": "no.safetensors"}, "weights='no.safetensors'"),
     ({"weights": None}, "--recipe length_prior")],
)  # fmt: skip
def test_what_no_prior_is_made_of(wrong, message):
    with pytest.raises(InputError, match=message):
        jd.length_prior(model("same"), TEXTS, **{"weights": head()} | wrong)


def test_a_file_that_is_no_head_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w1": np.ones((2, 2), np.float32)}, str(tmp_path / "x.safetensors"), metadata={"method": "length_prior"})
    with pytest.raises(InputError, match=r"x.safetensors is no counting head"):
        jd.length_prior(model("same"), TEXTS, weights=str(tmp_path / "x.safetensors"))


def test_the_shipped_head_knows_short_answers_from_long_ones():
    prompts = ["copy : [ Alan , Kate , Omar ]", "copy : [ Alan , Kate , Omar , Gina , Noah , Dora ]"]
    short, long = jd.length_prior(jd.load("tiny"), prompts, quantile=0.9)
    assert 8 <= short < long <= 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_new": [4, 8]}, "max_new has 2 numbers for 3 prompts"), ({"max_new": [4, 8, 0]}, "max_new=0"),
     ({"max_new": [4, 8, "9"]}, "max_new='9'"), ({"max_new": [4, 8, 8], "infill": True}, "one number for all beside infill"),
     ({"max_new": [4, 8, 8], "canvas": [[1], [2], [3]]}, "one number for all beside canvas")],
)  # fmt: skip
def test_columns_of_each_prompt_that_mean_nothing(settings, message):
    with pytest.raises(InputError, match=message):
        decode(model("same"), TEXTS, **settings)


@pytest.mark.slow
def test_a_row_with_columns_of_its_own_is_the_row_alone():
    lm, run = model("same"), {"policy": "threshold,temperature=1", "block": 4, "stop": False}
    out = decode(lm, TEXTS, max_new=[8, 4, 8], **run)
    whole = decode(lm, [TEXTS[0], TEXTS[2]], ids=[0, 2], max_new=8, **run)
    np.testing.assert_array_equal(out.tokens[[0, 2]], whole.tokens)
    assert out.tokens.shape == (3, 8) and (out.tokens[1, 4:] == lm.config.tokens.pad).all()
    alone = decode(lm, [TEXTS[1]], ids=[1], max_new=4, **run)
    np.testing.assert_array_equal(out.tokens[1, :4], alone.tokens[0])


@pytest.mark.exhaustive
def test_several_answers_have_the_columns_of_their_prompt():
    lm, run = model("same"), {"policy": "threshold,temperature=1", "block": 4, "stop": False}
    out = decode(lm, TEXTS, max_new=[8, 4, 8], **run)
    several = decode(lm, TEXTS, max_new=[8, 4, 8], n=2, **run)
    np.testing.assert_array_equal(several.tokens[::2], out.tokens)


@pytest.mark.slow
def test_an_autoregressive_row_has_columns_of_its_own_as_well():
    lm, run = toys.model(0), {"policy": jd.autoregressive(np.float32(1)), "seed": 5}
    out = decode(lm, toys.PROMPTS, max_new=[2, 6, 2, 6, 6], **run)
    whole = decode(lm, toys.PROMPTS, max_new=6, **run)
    np.testing.assert_array_equal(out.tokens[[1, 3, 4]], whole.tokens[[1, 3, 4]])
    np.testing.assert_array_equal(out.tokens[[0, 2], :2], whole.tokens[[0, 2], :2])
