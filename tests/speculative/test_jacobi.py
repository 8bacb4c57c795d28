"""Speculative Jacobi decoding: the target's own law whatever is guessed first, and forwards saved where neighbours tell of each
other; guidance of a target."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode
from jaxdlm import speculative as S
from jaxdlm._load import LM
from jaxdlm.core.model import KV, ModelOutput, Tiling
from tests.marks import usual
from tests.speculative.test_loop import TARGET
from tests.speculative.test_methods import LENGTH, ROWS, SMALL, START
from tests.speculative.test_verify import biased
from tests.speculative.toys import MAX_NEW, PROMPTS, distribution_of, expected, fit, greedy_decode, next_logits

RUN = {"max_new": MAX_NEW, "seed": 5}
HOT = jnp.float32(1)


@dataclass(frozen=True)
class Lattice:
    """Logits of the next token by column and token alone: weights are a table [columns, V, V]."""

    config: Any

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.config.vocab_size)

    def apply(self, params, tokens, position, valid, past=None, *, mask=None):
        blank = jnp.zeros((1, *tokens.shape, 1, 1), jnp.float32)
        hidden = jnp.stack([position, tokens], axis=2).astype(jnp.float32)
        return ModelOutput(hidden, KV(((blank,),), ((blank,),)))

    def head(self, params, hidden, first=None):
        column, token = hidden[..., 0].astype(jnp.int32), hidden[..., 1].astype(jnp.int32)
        return params[column % params.shape[0], token]


def lattice(table: np.ndarray) -> LM:
    """A model of such a table without an end of text."""
    tokens = replace(TARGET.config.tokens, eos=())
    config = replace(TARGET.config, vocab_size=table.shape[-1], tokens=tokens)
    return LM(Lattice(config), jnp.asarray(table, jnp.float32), None, "lattice")


@pytest.mark.slow
def test_greedy_tokens_for_every_window_and_first_guess():
    for settings in ({"window": 1}, {"window": 5}, {"window": 5, "first": "repeat"}):
        out = decode(TARGET, PROMPTS, S.sjd(**settings, temperature=0.0), **RUN)
        np.testing.assert_array_equal(out.tokens, expected(3))
        written = (out.commit_step >= 0).sum(1)
        assert (-(-written // settings["window"]) <= out.forwards).all() and (out.forwards <= written).all()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_window_of_one_and_shared_noise_are_plain_sampling():
    plain = decode(TARGET, PROMPTS, S.autoregressive(HOT), **RUN)
    for policy in (S.sjd(window=1, temperature=HOT), S.sjd(window=6, temperature=HOT, noise="shared")):
        out = decode(TARGET, PROMPTS, policy, **RUN)
        np.testing.assert_array_equal(out.tokens, plain.tokens)


@pytest.mark.slow
def test_guesses_of_a_model_that_looks_at_columns_alone_are_all_accepted():
    """But for the first ones, which are never right here: 1 and W tokens in turn."""
    rng, columns, window = np.random.default_rng(0), 60, 6
    table = np.broadcast_to(rng.normal(size=(columns, 1, 8)) * 2, (columns, 8, 8)).copy()
    table[:, :, 7] = -np.inf
    never = {"low": 7, "high": 8}
    for temperature in (HOT, 0.0):
        out = decode(lattice(table), [[0, 1]] * 3, S.sjd(window, **never, temperature=temperature), max_new=48)
        assert (abs(out.forwards - 2 * 48 / (window + 1)) <= 2).all()


@pytest.mark.slow
def test_a_chain_that_looks_back_gains_nothing_and_stays_exact():
    table = np.full((1, 6, 6), -9.0)
    table[0, np.arange(6), (np.arange(6) * 5 + 1) % 6] = 9.0
    out = decode(lattice(table), [[0, 1]], S.sjd(4, temperature=0.0, low=5, first="repeat", line=1), max_new=20)
    follow = [1]
    for _ in range(20):
        follow.append((follow[-1] * 5 + 1) % 6)
    assert out.tokens[0].tolist() == follow[1:]


def image(levels: int = 24, width: float = 6.0, sharp: float = 1.5) -> LM:
    """An image whose shades vary slowly along a line and from column to column: P(v | left u) ~ exp(-|v - m| / sharp),
    m between u and the column's own shade."""
    column = np.arange(64)[:, None, None]
    left, shade = np.arange(levels)[None, :, None], np.arange(levels)[None, None, :]
    own = levels / 2 * (1 + np.sin(column / width))
    return lattice(-abs(shade - (0.25 * left + 0.75 * own)) / sharp)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"coupled": True}, {"first": "repeat"}, {"noise": "shared"}])
def test_smooth_images_take_fewer_forwards(settings):
    out = decode(image(), [[3, 9]] * 16, S.sjd(8, temperature=HOT, top_k=20, **settings), max_new=48, save="none")
    assert 48 * 16 / out.forwards.sum() >= 1.3


# ------------------------------------------------------------------------------------------- the law, by enumeration


def p_value(policy, bend=lambda logits, text: logits) -> float:
    out = decode(SMALL, [START] * ROWS, policy=policy, max_new=LENGTH, seed=1, save="none")
    return fit(out.tokens, distribution_of(SMALL, START, LENGTH, bend=bend))


LAWS = {
    "random": {}, "repeat": {"first": "repeat"}, "coupled": {"coupled": True}, "of three": {"window": 3},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", usual(LAWS, "coupled"))
def test_three_sampled_tokens_have_the_targets_law(name):
    assert p_value(S.sjd(**{"window": 5} | LAWS[name], temperature=HOT)) > 1e-3


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_sampler_without_its_residual_fails_that_test():
    policy = S.sjd(window=4, coupled=True, temperature=HOT)
    assert p_value(policy.replace(acceptance=biased)) < 1e-4


# ------------------------------------------------------------------------------------------------------------ guidance

NULL, SCALE = 3, 1.5


def guided(lm: LM, prompt: list[int], logits: np.ndarray, text: list[int]) -> np.ndarray:
    """l_u + (s + 1) (l - l_u) by two whole forwards."""
    bare = next_logits(lm, [NULL] * (len(prompt) - 1) + prompt[-1:] + text).astype(np.float64)
    return bare + (SCALE + 1) * (logits - bare)


@functools.cache
def guided_tokens() -> np.ndarray:
    return np.array(
        [
            greedy_decode(
                TARGET, prompt, bend=lambda logits, text, prompt=prompt: guided(TARGET, prompt, logits, list(text))
            )
            for prompt in PROMPTS
        ]
    )


@pytest.mark.slow
def test_guidance_is_that_of_two_whole_forwards():
    by = {"cfg_scale": jnp.float32(SCALE), "null": NULL}
    plain = decode(TARGET, PROMPTS, S.autoregressive(**by), **RUN)
    np.testing.assert_array_equal(plain.tokens, guided_tokens())
    assert (guided_tokens() != expected(3)).any(1).sum() >= 3, "a guidance that changes nothing tests nothing"
    out = decode(TARGET, PROMPTS, S.sjd(4, temperature=0.0, **by), **RUN)
    np.testing.assert_array_equal(out.tokens, guided_tokens())
    np.testing.assert_allclose(out.score, plain.score, rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_sampled_tokens_have_the_guided_law():
    policy = S.sjd(4, coupled=True, temperature=HOT, cfg_scale=SCALE, null=NULL)
    bend = lambda logits, text: guided(SMALL, START, logits, text)  # noqa: E731
    assert p_value(policy, bend) > 1e-3
    assert p_value(policy) < 1e-6, "the law without guidance is another"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"window": 66}, "window=66"), ({"first": "up"}, "first='up'"), ({"low": 5, "high": 5}, "high=5: must be above low=5"),
     ({"line": 4}, "line=4 means nothing with first='random'"), ({"null": 3}, "null=3 means nothing with cfg_scale=0"),
     ({"coupled": True, "noise": "shared"}, "coupled=True means nothing with noise='shared'"),
     ({"high": 24}, "from low=0 to below high=24: target toy has 23 ids"),
     ({"cfg_scale": 1.0, "null": 23}, "null=23: target toy has ids up to 22")],
)  # fmt: skip
def test_what_means_nothing_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        decode(TARGET, PROMPTS, S.sjd(**arguments), **RUN)
