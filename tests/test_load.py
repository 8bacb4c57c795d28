"""Models by every kind of name: logits against transformers, pads without influence, errors that name the thing."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints_convert.__main__ import main
from jaxdlm import stops, tokenizer_checks
from jaxdlm._load import EMBEDDED, checkpoint_tokenizer, load
from jaxdlm.checkpoint import files, strict_json
from jaxdlm.checkpoint.safetensors import write_safetensors
from jaxdlm.errors import InputError
from jaxdlm.layout import encode
from jaxdlm.models import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.params import path_name
from jaxdlm.models.registry import RELEASED
from tests import helpers
from tests.convert.folders import golden, hub_folder
from tests.models.weights import loud_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(
    family="jaxdlm",
    vocab_size=40,
    num_layers=2,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=24,
    max_position=32,
    norm_eps=1e-6,
    rope=RopeConfig(theta=1e4),
    tie_embeddings=True,
    attention="full",
    prediction="same",
    noise="mask",
    tokens=TokenIds(mask=1, pad=0, bos=3, eos=(2,)),
    param_dtype="float32",
)


def native(folder, config=CONFIG, change=lambda name, array: array):
    """A folder in the library's own format with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = jax.tree_util.tree_leaves_with_path(loud_params(config))
    arrays = {path_name(path): change(path_name(path), np.array(leaf)) for path, leaf in leaves}
    write_safetensors(folder / "model.safetensors", arrays)
    values = {"architectures": ["JaxDLM"], "model_type": "jaxdlm", "jaxdlm": config.to_json()}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def lm(tmp_path):
    return load(native(tmp_path / "native"))


def llama(folder):
    """A Hugging Face folder written by transformers, and its oracle."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_theta=1e4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.15)
    model.save_pretrained(folder)
    return model


@pytest.mark.slow
def test_hub_folder_equals_transformers_on_ragged_rows(tmp_path):
    oracle = llama(tmp_path)
    lm = load(tmp_path)
    rows = [[1, 5, 9, 60, 3], [1, 7], [4, 4, 4, 2]]
    got = np.asarray(lm.logits(rows))
    assert got.shape == (3, 5, 64)
    assert got.dtype == np.float32
    for row, ids in enumerate(rows):
        with torch.no_grad():
            expected = oracle(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(got[row, : len(ids)], expected, atol=1e-4)
    assert lm.tokenizer is None
    assert lm.config.attention == "causal"
    assert lm.defaults["eos_token_id"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["full", "block_causal", "causal"])
def test_a_row_is_the_same_alone_and_among_longer_ones(tmp_path, attention):
    lm = load(native(tmp_path, dataclasses.replace(CONFIG, attention=attention, block_size=4)))
    rows = [[3, 9, 11], list(range(20, 31)), [7]]
    together = np.asarray(lm.logits(rows))
    for row, ids in enumerate(rows):
        np.testing.assert_allclose(together[row, : len(ids)], lm.logits([ids])[0], atol=1e-5)
    np.testing.assert_array_equal(lm.logits(jnp.asarray([rows[1]])), lm.logits(rows[1:2]))


@pytest.mark.slow
def test_weights_spread_over_a_mesh(tmp_path):
    folder = native(tmp_path)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spread = load(folder, mesh=mesh)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(spread.params)} == {4}
    np.testing.assert_allclose(spread.logits([[3, 9, 11]]), load(folder).logits([[3, 9, 11]]), atol=1e-5)


@pytest.mark.slow
def test_dtype_of_the_weights(tmp_path):
    folder = native(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(load(folder).params)} == {jnp.dtype("float32")}
    lm = load(folder, dtype="bfloat16")
    assert lm.params["embed"].dtype == jnp.bfloat16
    assert lm.config.param_dtype == "bfloat16"
    assert lm.logits([[3]]).dtype == jnp.float32


def test_tokenizer_comes_along(tmp_path):
    native(tmp_path)
    helpers.word_level(tmp_path, ("Alan", "Fox"), jaxdlm_examples=["Alan"])
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 16}')
    lm = load(tmp_path)
    assert lm.tokenizer.decode(lm.tokenizer.encode_prompt("Alan Fox")) == "Alan Fox"
    assert lm.tokenizer.eos == (2,)
    assert checkpoint_tokenizer(str(tmp_path)).examples == ("Alan",)
    assert lm.defaults["max_new_tokens"] == 16


CONTROLS = ("<pad>", "<eos>", "<turn>", "</turn>", "<mask>")


def dream(folder, *, config=None, generation=None, **settings):
    """A small Dream with a tokenizer of its own, the ids of whose control tokens are returned, too."""
    template = "{% for m in messages %}<turn>{{ m.role }} {{ m.content }}</turn>{% endfor %}<turn>assistant "
    helpers.byte_level(folder, CONTROLS, template, **settings)
    ids = {t["content"]: t["id"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    files, values = golden("dream")
    hub_folder(folder, files, values | {"mask_token_id": ids["<mask>"], "eos_token_id": None} | (config or {}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder, ids


@pytest.mark.slow
def test_every_file_s_ends_are_one_set_for_model_and_tokenizer(tmp_path):
    """config.json, generation_config.json, the tokenizer's, and the turn's; in a converted folder as in its source."""
    generation = {"eos_token_id": [8, 7, -1, 10**9]}
    folder, ids = dream(tmp_path / "hub", config={"eos_token_id": [9, 8]}, generation=generation, eos_token="<eos>")
    template = "{% for m in messages %}{{ m.content }}<pad>{% endfor %}"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    ends = (8, 7, 9, ids["<eos>"], ids["<pad>"])
    assert main([str(folder), str(tmp_path / "converted"), "--quiet"]) == 0
    for place in (folder, tmp_path / "converted"):
        lm = load(place)
        assert lm.config.tokens.eos == lm.tokenizer.eos == ends
        assert lm.tokenizer.decode([20, 21, ids["</turn>"], 9, 22]) == lm.tokenizer.decode([20, 21])


def test_ends_of_our_own_format_and_without_a_tokenizer(tmp_path):
    tokens = dataclasses.replace(CONFIG.tokens, turn_end=4)
    native(tmp_path, dataclasses.replace(CONFIG, tokens=tokens))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert load(tmp_path).config.tokens.eos == (2, 4, 5)
    helpers.word_level(tmp_path, ("Alan", "Fox"), eos_token="<asst>")
    lm = load(tmp_path)
    assert lm.config.tokens.eos == lm.tokenizer.eos == (2, 4, 5)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id='x': must be an id"):
        load(tmp_path)


def test_ids_that_mean_nothing_are_absent_and_a_tokenizer_may_have_more_than_the_model(tmp_path):
    folder, ids = dream(
        tmp_path, config={"pad_token_id": -1, "bos_token_id": -1, "eos_token_id": -1}, eos_token="<eos>",
        words=tuple(f"<image{number}>" for number in range(200)),
    )  # fmt: skip
    lm = load(folder)
    assert lm.tokenizer.size > lm.config.vocab_size
    assert lm.config.tokens.eos == (ids["<eos>"], ids["</turn>"])
    assert lm.config.tokens.bos is None and 0 <= lm.config.tokens.pad < lm.config.vocab_size
    assert encode(lm, "a word", 0, 4, False).size
    with pytest.raises(
        InputError, match=r"prompt 3 holds token id \d+, .* no embedding for '<image199>', leave it out"
    ):
        encode(lm, "an <image199>", 3, 4, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models(name):
    lm = load(name)
    assert lm.name == name
    assert lm.params["embed"].dtype == jnp.float32
    assert lm.config.tokens.eos == lm.tokenizer.eos == (2, 7), "the end of a text and of a turn"
    ids = lm.tokenizer.encode_prompt(lm.tokenizer.examples[0])
    assert np.isfinite(lm.logits([ids])).all()


@pytest.mark.slow
def test_shape_without_weights(monkeypatch):
    small = {
        "architectures": ["LLaDAModelLM"], "d_model": 16, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 24,
        "vocab_size": 40, "embedding_size": 40, "rope_theta": 1e4, "max_sequence_length": 32, "mask_token_id": 1,
    }  # fmt: skip
    monkeypatch.setitem(RELEASED, "small", small)
    lm = load("shape:small:float32")
    assert lm.params["embed"].dtype == jnp.float32
    assert lm.config.param_dtype == "float32"
    assert lm.tokenizer is None
    assert np.isfinite(lm.logits([[3, 4]])).all()
    assert load("shape:small").params["embed"].dtype == jnp.bfloat16


@pytest.mark.parametrize("converted", [False, True])
def test_a_checkpoint_is_read_once_and_copied_nowhere(converted, tmp_path, monkeypatch):
    """A tokenizer's file may have 30 MB: vocabulary, special ids and tokenizer are made of one reading. A weight stays in
    the memory that it was read into, where the device is the host."""
    folder = hub_folder(tmp_path / "hub", *golden("dream"))
    helpers.byte_level(folder, ("<|mask|>", "<|endoftext|>"), None)
    if converted:
        assert main([str(folder), str(tmp_path / "out"), "--quiet"]) == 0
        folder = tmp_path / "out"
    reads, built, parse, build = [], [], strict_json.parse, tokenizer_checks._with_bpe
    rooms, empty = [], files.empty
    monkeypatch.setattr(files, "empty", lambda *args: rooms.append(empty(*args)) or rooms[-1])
    monkeypatch.setattr(strict_json, "parse", lambda text, file: reads.append(str(file)) or parse(text, file))
    monkeypatch.setattr(tokenizer_checks, "_with_bpe", lambda *args: built.append(args) or build(*args))
    lm = load(folder)
    assert lm.tokenizer.encode("a b")
    assert lm.params["embed"].unsafe_buffer_pointer() in {room.ctypes.data for room in rooms}
    assert sum(name.endswith("tokenizer.json") for name in reads) == len(built) == 1


@pytest.mark.slow
def test_a_tokenizer_that_is_sentencepiece_s_alone_says_what_to_do(tmp_path, capsys):
    """The model works with ids all the same; text, and the converter, name the command that writes tokenizer.json."""
    folder = hub_folder(tmp_path / "a folder", *golden("dream"))
    (folder / "tokenizer.model").write_bytes(b"\x0a\x05")
    lm = load(folder)
    assert lm.tokenizer is None and np.isfinite(lm.logits([[3, 4]])).all()
    for wanted in (lambda: encode(lm, "hello", 0, 4, False), lambda: stops.spellings(lm, "x")):
        with pytest.raises(InputError, match=r"tokenizer\.model is SentencePiece's.*save_pretrained") as caught:
            wanted()
        assert f"'{folder}'" in str(caught.value) and "\n" not in str(caught.value)
    assert main([str(folder), str(tmp_path / "out"), "--quiet"]) == 0
    assert "note: tokenizer.model is SentencePiece's" in capsys.readouterr().err
    assert "tokenizer.model" in load(tmp_path / "out").advice
    (folder / "tokenizer.model").unlink()
    with pytest.raises(InputError, match="has no tokenizer: pass token ids"):
        encode(load(folder), "hello", 0, 4, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, bad):
    def spoil(name, array):
        if name == "segments/0/0/wq":
            array[1, 0, 0, 0] = bad
        return array

    with pytest.raises(InputError, match=r"tensor segments/0/0/wq holds NaN or infinity"):
        load(native(tmp_path, change=spoil))


def test_not_finite_hub_tensor_is_named_with_its_layer(tmp_path):
    model = llama(tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        load(tmp_path)


def test_unknown_names(tmp_path):
    with pytest.raises(InputError, match=r"did you mean 'tiny-draft'.*tiny, tiny-ar, tiny-draft"):
        load("tiny-drafd")
    with pytest.raises(InputError, match="did you mean 'llada-8b'"):
        load("shape:lada-8b")
    with pytest.raises(InputError, match="dtype='float8'"):
        load("shape:llada-8b:float8")
    with pytest.raises(InputError, match="dtype='int8'"):
        load("tiny", dtype="int8")
    with pytest.raises(InputError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(InputError, match="is no GGUF file"):
        (tmp_path / "x").touch()
        load(tmp_path / "x")
    with pytest.raises(InputError, match="is remote"):
        load("gs://bucket/model")


def test_hub_without_connection(monkeypatch):
    import huggingface_hub

    def offline(name, *, revision, allow_patterns):
        assert not {"*.py", "*.bin"} & set(allow_patterns)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"'owner/model', and the Hub did not give it .*no route to host") as caught:
        load("owner/model")
    assert "\n" not in str(caught.value)


def test_hub_id_is_fetched_with_its_revision(monkeypatch, tmp_path):
    import huggingface_hub

    native(tmp_path)
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load("owner/model", revision="v1").name == "owner/model"
    assert asked == [("owner/model", "v1")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no row"),
        ([[]], "empty"),
        ([[1], [40]], r"row 1 of token_ids holds id 40, outside 0\.\.39"),
        ([[-1]], "id -1"),
        ([[1.5]], "float64"),
        ([[1] * 33], "33 ids, the model reads 32"),
    ],
)
def test_bad_token_ids(lm, rows, message):
    with pytest.raises(InputError, match=message):
        lm.logits(rows)


def test_a_model_is_shown_in_one_line():
    lm = load("tiny")
    assert "\n" not in repr(lm) and len(repr(lm)) < 120
    assert repr(lm).startswith("<LM tiny: ") and f"{lm.config.vocab_size} words, tokenizer>" in repr(lm)
    count = sum(leaf.size for leaf in jax.tree.leaves(lm.params))
    assert f"{count:,} weights in float32" in repr(lm)
    assert repr(dataclasses.replace(lm, params=None, tokenizer=None)).endswith(": no weights, 512 words, no tokenizer>")
