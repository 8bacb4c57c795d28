"""Distilled decoding against its rule, each round from forwards over everything; the laws of trajectories; its file."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode, layout
from jaxdlm.checkpoint.safetensors import read_safetensors, write_safetensors
from jaxdlm.core.model import KV, ModelOutput, Tiling
from jaxdlm.models import Backbone
from jaxdlm.speculative import distilled, flow
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import position_noise, warp
from jaxdlm.train.recipes import distilled as recipe
from jaxdlm.trained import ASSETS
from tests.guides import oracles
from tests.speculative.toys import END, PROMPTS, VOCAB, model, next_logits

LENGTH, SIZE = 8, 4
RUN = {"max_new": LENGTH}


def student(seed=0, layers=2):
    """Of the toy's own layers, with noise that matters."""
    lm = model(seed)
    config, start = recipe.beginning(lm, layers, SIZE)
    start = start | {"noise": 3 * start["noise"], "bias": 0.5 * jnp.cos(jnp.arange(24, dtype=jnp.float32))}
    return recipe.student_of(start, Backbone(config), LENGTH)


def said(pupil, prompt, written, noise):
    """Logits of every place, by a table of embeddings that has the noise as further words."""
    config = pupil.model.config
    rows = np.asarray(noise) @ np.asarray(pupil.noise) + np.asarray(pupil.bias)
    longer = {**pupil.params, "embed": jnp.concatenate([pupil.params["embed"], jnp.asarray(rows)])}
    wide = Backbone(dataclasses.replace(config, vocab_size=config.vocab_size + LENGTH))
    text = [*prompt, *written, *(config.vocab_size + place for place in range(len(written), LENGTH))]
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, : len(text)] = text
    hidden = _hidden(wide, longer, jnp.asarray(tokens))
    return np.asarray(pupil.model.head(pupil.params, hidden))[0, len(prompt) : len(prompt) + LENGTH]


@functools.partial(jax.jit, static_argnums=0)
def _hidden(wide, params, tokens):
    position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return wide.apply(params, tokens, position, jnp.ones_like(position, bool)).hidden


def rows_of(lm, prompts, seed=0, ids=None):
    return layout.lay_out_rows(lm, prompts, max_new=LENGTH, seed=seed, ids=ids, raw=False)[0]


def wanted(lm, pupil, bounds=(), redraw=(0, 0), bend=lambda logits, text: logits):
    """(texts, forwards): rounds of the student up to each bound, tokens of the model between the two of `redraw`."""
    rows, texts, forwards = rows_of(lm, PROMPTS), [], []
    noise = np.asarray(flow.noise_of(rows.key, rows.start, LENGTH, SIZE))
    for row, prompt in enumerate(PROMPTS):
        text, count = [], 0
        while len(text) < LENGTH and END not in text:
            count += 1
            if redraw[0] <= len(text) < redraw[1]:
                at = jnp.asarray([len(prompt) + len(text)], jnp.int32)
                drawn = np.asarray(position_noise(rows.key[row : row + 1], at, 1, VOCAB))[0, 0]
                text.append(int((bend(next_logits(lm, [*prompt, *text]), [*prompt, *text]) + drawn).argmax()))
                continue
            logits = said(pupil, prompt, text, noise[row])
            end = min(each for each in (*bounds, *redraw, LENGTH) if each > len(text))
            while len(text) < end and END not in text:
                text.append(int(bend(logits[len(text)], [*prompt, *text]).argmax()))
        texts.append(text + [END] * (LENGTH - len(text)))
        forwards.append(count)
    return texts, forwards


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "bounds", "redraw"),
    [
        pytest.param({}, (), (0, 0), marks=pytest.mark.exhaustive),
        pytest.param({"steps": 3}, (3, 5), (0, 0), marks=pytest.mark.exhaustive),
        ({"keep": 3, "redraw": 2}, (3,), (3, 5)),
        pytest.param({"keep": 0, "redraw": 2}, (), (0, 2), marks=pytest.mark.exhaustive),
        pytest.param({"keep": 2, "redraw": 8}, (2,), (2, 8), marks=pytest.mark.exhaustive),
        pytest.param({"keep": 5}, (5,), (0, 0), marks=pytest.mark.exhaustive),
    ],
)
def test_it_is_the_rule(settings, bounds, redraw):
    """In any order of the rows; an answer that does not end takes 1, `steps` and 2 + `redraw` forwards."""
    lm, pupil = model(0), student()
    policy = jd.distilled(pupil, **settings)
    out = decode(lm, PROMPTS, policy, **RUN)
    texts, forwards = wanted(lm, pupil, bounds, redraw)
    assert out.tokens.tolist() == texts and out.forwards.tolist() == forwards
    first = 1 if settings.get("keep") == 0 else 2
    usual = settings.get("steps", 1) if "keep" not in settings else min(LENGTH, first + settings.get("redraw", 0))
    assert max(forwards) == usual - (redraw[1] == LENGTH), "the last of them is the model's, where it draws to the end"
    other = decode(lm, PROMPTS[::-1], policy, ids=range(len(PROMPTS))[::-1], **RUN)
    assert other.tokens.tolist()[::-1] == texts and other.forwards.tolist()[::-1] == forwards
    assert not out.drafted.any() and not out.accepted.any()


@pytest.mark.exhaustive
def test_a_row_is_the_same_alone():
    policy = jd.distilled(student(), keep=3, redraw=2)
    whole = decode(model(0), PROMPTS, policy, **RUN)
    for row in (0, 3):
        alone = decode(model(0), [PROMPTS[row]], policy, ids=[row], **RUN)
        assert alone.tokens[0].tolist() == whole.tokens[row].tolist() and alone.forwards[0] == whole.forwards[row]


@pytest.mark.exhaustive
def test_a_guide_bends_one_token_after_the_other():
    lm, pupil = model(0), student()
    bend = lambda logits, text: oracles.penalised(logits, text, np.float32(2))  # noqa: E731
    guide = jd.guides.repetition(2.0)
    out = decode(lm, PROMPTS, jd.distilled(pupil, keep=3, redraw=2, guide=guide), **RUN)
    assert out.tokens.tolist() == wanted(lm, pupil, (3,), (3, 5), bend)[0] != wanted(lm, pupil, (3,), (3, 5))[0]


@pytest.mark.exhaustive
def test_places_see_the_noise_up_to_their_own():
    """No shift, and none of what comes later; of written places the token counts, not the noise."""
    pupil, rows = student(), rows_of(model(0), PROMPTS[:1])
    noise = np.array(flow.noise_of(rows.key, rows.start, LENGTH, SIZE))

    def logits(written, noise, tokens=rows.tokens):
        return np.asarray(pupil.logits(tokens, rows.start, jnp.asarray([written], jnp.int32), jnp.asarray(noise)))[0]

    other = noise.copy()
    other[0, 4] += 1
    for written, same in ((0, slice(4)), (5, slice(LENGTH))):
        before, after = logits(written, noise), logits(written, other)
        np.testing.assert_array_equal(before[same], after[same])
        assert written or (before[4] != after[4]).any()
    text = rows.tokens.at[0, 5].set(17)
    assert (logits(5, noise, text) != logits(5, noise)).any() and (logits(1, noise, text) == logits(1, noise)).all()


@dataclasses.dataclass(frozen=True)
class Twins:
    """A model of two tokens, the second always equal to the first, which is token 1 in 3 of 10 cases."""

    config: object

    @property
    def tiling(self):
        return Tiling(2)

    def apply(self, params, tokens, position, valid, past=None, *, mask=None):
        first = jnp.log(jnp.array([0.7, 0.3], jnp.float32))
        again = jnp.where(jnp.arange(2)[None, None, :] == tokens[..., None], 0.0, -jnp.inf)
        nothing = jnp.zeros((1, *tokens.shape, 1, 2))
        return ModelOutput(jnp.where((position == 0)[..., None], first[None, None, :], again), KV(nothing, nothing))

    def head(self, params, hidden, first=None):
        return hidden


@pytest.mark.slow
def test_trajectories_have_the_law_of_the_text():
    """Tokens that are drawn apart from each other would give four texts."""
    config = dataclasses.replace(
        model(0).config, vocab_size=2, tokens=dataclasses.replace(model(0).config.tokens, eos=())
    )
    lm = jd.LM(Twins(config), {"table": jnp.zeros(1)}, None, "twins")
    codes = jnp.array([[1.0, 0.0], [0.0, 1.0]], jnp.float32)
    policy = Speculation(Nothing(), warp(1.0), search=distilled.Trajectories(codes))
    out = decode(lm, [[0]] * 2000, policy, max_new=2)
    assert (out.tokens[:, 0] == out.tokens[:, 1]).all()
    assert abs(out.tokens[:, 0].mean() - 0.3) < 4 * (0.21 / 2000) ** 0.5
    np.testing.assert_array_equal(decode(lm, [[0]] * 2000, policy, max_new=2).tokens, out.tokens)


def test_a_student_comes_back_from_its_file(tmp_path):
    lm, file = model(0), tmp_path / "one.safetensors"
    pupil = dataclasses.replace(student(), made_for="another", temperature=0.5)
    distilled.write_student(file, pupil)
    back = distilled.read_student(file)
    assert jd.distilled(file) == jd.distilled(back), "read once, so that nothing is traced twice"
    assert (back.model, back.length, back.temperature, back.made_for) == (
        pupil.model, pupil.length, pupil.temperature, pupil.made_for,
    )  # fmt: skip
    for mine, other in zip(jax.tree.leaves(pupil), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(mine, other, atol=float(jnp.max(jnp.abs(mine))) / 100)
    with pytest.raises(InputError, match="distilled from another model than toy: distil one with"):
        decode(lm, PROMPTS, jd.distilled(file), **RUN)
    arrays, notes = read_safetensors(file)
    for change, message in [
        ((arrays, notes | {"method": "s2d"}), "is no distilled student"),
        ((arrays, {name: note for name, note in notes.items() if name != "config"}), "is no distilled student"),
        ((arrays, notes | {"length": "-1"}), "is no distilled student"),
        ((arrays | {"bias": arrays["bias"][:-1]}, notes), r"bias has \(23,\), its configuration says \(24,\)"),
        ((arrays | {"bias": arrays["bias"] * np.inf}, notes), "bias has .* of finite numbers"),
        (({name: array for name, array in arrays.items() if name != "embed/scale"}, notes), "embed has"),
    ]:
        write_safetensors(tmp_path / "bad.safetensors", *change)
        with pytest.raises(InputError, match=message):
            jd.distilled(tmp_path / "bad.safetensors")


def test_what_does_not_fit_is_refused():
    lm, pupil = model(0), student()
    for wrong, message in [
        ({"steps": 9}, "steps=9"), ({"keep": 8}, "keep=8"), ({"redraw": 2}, "redraw=2 means nothing without keep"),
        ({"keep": 2, "steps": 2}, "steps=2 means nothing with keep"), ({"keep": 2, "redraw": 9}, "redraw=9"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            jd.distilled(pupil, **wrong)
    with pytest.raises(InputError, match="max_new=9: the student writes answers of up to 8 tokens"):
        decode(lm, PROMPTS, jd.distilled(pupil), max_new=9)
    with pytest.raises(InputError, match="n=2: this policy finds 1 per prompt"):
        decode(lm, PROMPTS, jd.distilled(pupil), n=2, **RUN)
    with pytest.raises(InputError, match="weights='tiny-rx': must be a file of"):
        jd.distilled("tiny-rx")


@pytest.mark.exhaustive
def test_the_shipped_student_writes_in_the_languages_of_grammars():
    lm = jd.load("tiny-ar")
    asked = lm.tokenizer.examples[:2]
    out = decode(lm, asked, "distilled", max_new=16)
    assert out.forwards.tolist() == [1, 1] and (ASSETS / "tiny-ar" / distilled.FILE).stat().st_size < 2.2e6
    chosen = decode(lm, asked, "distilled", max_new=16, choices=["[ Alan , Kate ]", "[ Omar ]"])
    assert set(chosen.text) <= {"[ Alan , Kate ]", "[ Omar ]"}
