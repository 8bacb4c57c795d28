"""`smollm2-block`: the loss is what decoding sees, runs resume, and what is exported decodes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode
from jaxdlm._load import LM, load
from jaxdlm.errors import InputError
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.params import init_params
from jaxdlm.train.export import export_params
from jaxdlm.train.losses import block_losses, block_sees
from jaxdlm.train.recipes import _samples, block
from jaxdlm.train.step import init_state, learning_rate, load_state, make_step, place, save_state
from tests.helpers import CHATML, byte_level
from tests.marks import usual

ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>")
BLOCK, CANVAS = 4, 8
SMALL = {"block": BLOCK, "canvas": CANVAS, "rank": 2, "batch": 4, "slots": 4, "rows": 8, "held_out": 4}
SMALL |= {"accumulate": 2, "peak_lr": 0.05}


def config_of(vocab: int, end: int, start: int) -> ModelConfig:
    """A llama of a few thousand weights."""
    return ModelConfig(
        family="llama", vocab_size=vocab, num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8,
        intermediate_size=48, max_position=512, norm_eps=1e-5, rope=RopeConfig(theta=1e4), tie_embeddings=True,
        tokens=TokenIds(pad=end, bos=start, eos=(end,), tokenizer_size=vocab), param_dtype="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A random autoregressive chat model as a folder."""
    root = tmp_path_factory.mktemp("causal")
    words = byte_level(root / "words", ENDS, CHATML, eos_token="<|im_end|>", bos_token="<|im_start|>")
    ids = json.loads((words / "tokenizer.json").read_text())["added_tokens"]
    number = {each["content"]: each["id"] for each in ids}
    config = config_of(max(number.values()) + 1, number["<|im_end|>"], number["<|im_start|>"])
    export_params(config, init_params(config, jax.random.key(0), init="loud"), root / "model", words)
    return root / "model"


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    sizes = ((5, 6), (9, 3), (2, 7), (8, 1))
    return [(rng.integers(4, 60, n).tolist(), [*rng.integers(4, 60, k).tolist(), 2]) for n, k in sizes]


@pytest.fixture(scope="module")
def toy(samples):
    config = block.block_config(config_of(64, 2, 1), BLOCK, 3)
    return Backbone(config), init_params(config, jax.random.key(0), init="loud"), _samples.pool(samples, config, CANVAS)


# -------------------------------------------------------------------------------------------------------- the layout


def test_samples_stand_where_decoding_puts_them(samples, toy):
    _, _, pool = toy
    assert pool.tokens.shape == (4, 8 + 12) and (pool.pads % BLOCK == 0).all()
    for row, (prompt, answer) in enumerate(samples):
        text = pool.tokens[row, pool.pads[row] :]
        np.testing.assert_array_equal(text[: len(prompt) + len(answer)], prompt + answer)
        first = 8 - pool.pads[row]
        opened = np.flatnonzero(pool.open[row]) + first
        stop = -(-(len(prompt) + len(answer)) // BLOCK) * BLOCK
        np.testing.assert_array_equal(opened, np.arange(len(prompt), stop))
        assert (text[len(prompt) + len(answer) : stop] == 2).all(), "ends fill the last block"
    assert _samples.pool([([5, 6], [7, 8])], toy[0].config, CANVAS).open.sum() == 2, "no end: nothing is filled"


def test_hidden_columns_are_uniform_in_number_and_place():
    opened = np.ones((4000, 8), bool)
    opened[:, :1] = opened[:, 6:] = False  # blocks with 3 and 2 open columns
    found = _samples.hide(opened, BLOCK, np.random.default_rng(0))
    assert not (found.hidden & ~opened).any()
    for columns, size in ((slice(0, 4), 3), (slice(4, 8), 2)):
        counts = found.hidden[:, columns].sum(1)
        np.testing.assert_array_equal(counts, found.number[:, columns][:, 0])
        assert (found.among[:, columns] == size).all()
        np.testing.assert_allclose(np.bincount(counts, minlength=size + 1)[1:] / 4000, 1 / size, atol=0.03)
    np.testing.assert_allclose(found.hidden[:, 1:4].mean(0), (3 + 1) / 2 / 3, atol=0.03)


def test_a_view_never_sees_the_clean_copy_of_its_block():
    sees = block_sees(4, 8, 4)
    clean, first, second = slice(0, 12), slice(12, 20), slice(20, 28)
    assert not sees[clean, 12:].any() and sees[clean, clean].all()
    assert not sees[first, second].any() and not sees[second, first].any()
    for view in (first, second):
        np.testing.assert_array_equal(sees[view, clean].sum(1), [4] * 4 + [8] * 4)
        np.testing.assert_array_equal(sees[view, view], np.kron(np.eye(2, dtype=bool), np.ones((4, 4), bool)))


# ---------------------------------------------------------------------------------------------------------- the loss


def slow(model, params, pool, hidden, row):
    """Σ of cross-entropy, a forward per view and block over the text as decoding has it then."""
    apply = jax.jit(lambda t, p, v: model.head(params, model.apply(params, t, p, v).hidden))
    pads, total = pool.pads[row], 0.0
    text, first = pool.tokens[row, pads:], 8 - pads
    for view in (hidden[row], pool.open[row] & ~hidden[row]):
        for begin in range(0, 12, BLOCK):
            gone = first + begin + np.flatnonzero(view[begin : begin + BLOCK])
            now = np.zeros(20, np.int32)
            now[: len(text)] = text
            now[gone] = 3
            valid = np.arange(20) < first + begin + BLOCK
            logits = np.array(apply(now[None], np.arange(20, dtype=np.int32)[None], valid[None])[0], np.float64)
            logits[:, 3] = -np.inf
            total += sum(np.log(np.exp(logits[at - 1]).sum()) - logits[at - 1, text[at]] for at in gone)
    return total


@pytest.mark.slow
def test_the_loss_is_that_of_decoding_block_by_block(toy):
    """Earlier blocks clean, the first column of a block told by the last of the clean one before."""
    model, params, pool = toy
    hidden = _samples.hide(pool.open, BLOCK, np.random.default_rng(1)).hidden
    batch = _samples.batch_of(pool, np.arange(4), hidden, np.ones(hidden.shape))
    found = jax.jit(lambda p, b: block_losses(model, p, b))(params, batch)
    for row in (1, 2):
        assert float(found[row]) == pytest.approx(slow(model, params, pool, hidden, row), rel=1e-5)


@pytest.mark.slow
def test_in_blocks_of_one_column_the_bound_is_the_likelihood(toy):
    """What is hidden is told from what stands before it: the model is autoregressive, and the bound exact."""
    _, params, _ = toy
    config = block.block_config(config_of(64, 2, 1), 1, 3)
    pairs = [([5, 6, 7], [9, 10, 11, 2]), ([8, 9], [12, 2])]
    found = _samples.bits_per_token(Backbone(config), params, _samples.pool(pairs, config, 4), draws=2, batch=4)
    lm, nats = LM(Backbone(config_of(64, 2, 1)), params, None, "toy"), 0.0
    for prompt, answer in pairs:
        logits = np.array(lm.logits([prompt + answer])[0], np.float64)
        logits[:, 3] = -np.inf
        nats += sum(np.log(np.exp(logits[len(prompt) - 1 + at]).sum()) - logits[len(prompt) - 1 + at, token]
                    for at, token in enumerate(answer))  # fmt: skip
    assert found == {"bits": pytest.approx(nats / np.log(2) / 6, abs=1e-3), "se": 0}


# ---------------------------------------------------------------------------------------------------------- training


def recipe_of(causal, steps):
    lm = load(causal, dtype="float32")
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(40, 60, 6).tolist(), [70, 71, 72, 73, lm.config.tokens.eos[0]]) for _ in range(6)]
    settings = block.Settings(model=str(causal), **SMALL)
    config = block.block_config(lm.config, BLOCK, block.mask_id(lm, settings.mask))
    return block.adaptation(lm, _samples.pool(pairs, config, CANVAS), settings, steps)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_loss_falls_and_a_cut_run_goes_on_to_the_same_bits(causal, tmp_path):
    """Cut in the middle of an update: what was accumulated is part of the checkpoint."""
    steps, cut = 16, 7
    recipe = recipe_of(causal, steps)
    start = jax.tree.map(np.asarray, init_state(recipe))
    step, state, losses = make_step(recipe), jax.tree.map(jnp.asarray, start), []

    def on(state, numbers):
        for number in numbers:
            state, batch = place(state, recipe.batch_at(recipe.seed, number))
            state, loss = step(state, batch, np.float32(learning_rate(recipe, number, number / steps)))
            losses.append(float(loss))
        return state

    state = on(state, range(cut))
    save_state(tmp_path, state)
    whole = on(state, range(cut, steps))
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    resumed = on(load_state(tmp_path, jax.tree.map(jnp.asarray, start)), range(cut, steps))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for a, b in zip(jax.tree.leaves(start.params["base"]), jax.tree.leaves(whole.params["base"]), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b), "the base rests")
    assert min(float(jnp.abs(pair["b"]).max()) for pair in whole.params["lora"].values()) > 0
    assert np.abs(np.asarray(whole.params["rows"]) - start.params["rows"]).max() > 1e-3


# ------------------------------------------------------------------------------------------------------------ phases

TEXTS = [f"say {word}" for word in "one two three four five six seven eight nine ten".split()]


@pytest.fixture(scope="module")
def made(causal, tmp_path_factory):
    """A folder in which all phases ran, in two commands, and what they found."""
    folder, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    patch.setattr(block, "TASKS", ())
    patch.setattr(block, "SHOWN", ("threshold",))
    call = {
        "texts": TEXTS,
        "model": str(causal),
        "steps": 4,
        "minutes": None,
        "data_minutes": None,
        "measure": 2,
        **SMALL,
    }
    block.run(folder, until="data", **call)
    yield folder, block.run(folder, **call), call
    patch.undo()


@pytest.mark.slow
def test_phases_leave_what_they_say(made):
    folder, found, _ = made
    assert found["steps"] == 4 and found["samples"] == 8 and found["texts"] == 1
    assert found["delta_bytes"] == (folder / "delta.safetensors").stat().st_size
    assert found["bits_per_token"]["base"] > 0 and found["bits_per_token"]["bound"]["bits"] > 0
    (sample,) = found["shown"]
    assert sample["prompt"].startswith("user\nsay one") and set(sample) == {"prompt", "autoregressive", "threshold"}
    assert found["decoding"]["autoregressive"] == {"tokens_per_forward": 1.0}
    assert found["decoding"]["threshold"]["tokens_per_forward"] > 0
    assert json.loads((folder / "figures.json").read_text()) == found
    assert json.loads((folder / "model" / "recipe.json").read_text())["settings"]["block"] == BLOCK


@pytest.mark.slow
def test_the_same_call_again_answers_and_trains_nothing(made, monkeypatch):
    folder, found, call = made
    monkeypatch.setattr(block, "job", None)
    before = (folder / "delta.safetensors").read_bytes(), (folder / "curve.jsonl").read_bytes()
    again = block.run(folder, until="train", **call)
    assert again.items() <= found.items()
    assert before == ((folder / "delta.safetensors").read_bytes(), (folder / "curve.jsonl").read_bytes())
    with pytest.raises(InputError, match="block=4, not 8"):
        block.run(folder, **{**call, "block": 8})


# one of each kind: plain, by parts of a block, several versions of a row, and one that changes what is written
POLICIES = ("threshold", "fast_dllm_v2", "freedave", "llada21")


@pytest.mark.slow
@pytest.mark.parametrize("policy", usual(POLICIES, "threshold"))
def test_the_exported_model_decodes_with_its_exact_cache(policy, made, causal):
    lm = load(made[0] / "model")
    assert (lm.config.attention, lm.config.block_size, lm.config.prediction) == ("block_causal", BLOCK, "next")
    assert lm.tokenizer.literal(lm.config.tokens.mask) == "<empty_output>" == lm.tokenizer.names["mask_token"]
    assert lm.config.tokens.eos == load(causal).config.tokens.eos
    exact, plain = (decode(lm, TEXTS[:3], policy, cache, max_new=CANVAS) for cache in ("block_exact", "none"))
    np.testing.assert_array_equal(exact.tokens, plain.tokens)
    assert not (exact.tokens == lm.config.tokens.mask).any()


def test_what_cannot_be_adapted_is_named(causal, made, tmp_path):
    with pytest.raises(InputError, match="no such token"):
        block.run(tmp_path / "a", texts=TEXTS, model=str(causal), mask="<nothing>", **SMALL)
    with pytest.raises(InputError, match="begins, ends or pads"):
        block.run(tmp_path / "b", texts=TEXTS, model=str(causal), mask="<|im_end|>", **SMALL)
    with pytest.raises(InputError, match="two prompts"):
        block.run(tmp_path / "c", texts=TEXTS[:1], model=str(causal), **SMALL)
    with pytest.raises(InputError, match="no autoregressive model"):
        block.block_config(load(made[0] / "model").config, 4, 3)
    with pytest.raises(InputError, match="largest that fits"):
        block.run(tmp_path / "e", texts=TEXTS, model=str(causal), **{**SMALL, "rank": 10**5})
    with pytest.raises(InputError, match="512 positions"):
        block.run(tmp_path / "e", texts=TEXTS, model=str(causal), **{**SMALL, "canvas": 512})
    assert not (tmp_path / "e").exists(), "nothing is begun"
    with pytest.raises(InputError, match="rank=0"):
        block.Settings(rank=0)
    with pytest.raises(InputError, match="--until"):
        block.run(tmp_path / "d", until="later")
    with pytest.raises(InputError, match="--steps 0"):
        block.run(tmp_path / "d", steps=0)


@pytest.mark.slow
def test_questions_of_all_lengths_come_back_in_their_order(causal):
    lm = load(causal, dtype="float32")
    questions = [lm.tokenizer.encode_prompt(text) for text in ("say one and two", "say one", "say three and")]
    found = block.answers(lm, questions, "autoregressive", CANVAS, batch=2)
    for row, question in enumerate(questions):
        alone = decode(lm, [question, question], "autoregressive", max_new=CANVAS)
        np.testing.assert_array_equal(found.tokens[row], alone.tokens[0])
        assert found.text[row] == alone.text[0] and found.forwards[row] == alone.forwards[0]
