"""GGUF files of every architecture against the Hub folders that they stand for, leaf by leaf."""

import dataclasses
import pathlib

import numpy as np
import pytest

pytest.importorskip("gguf")

import gguf

from jaxdlm.checkpoint import load_params, open_folder
from jaxdlm.checkpoint.errors import CheckpointError
from jaxdlm.checkpoint.gguf import kinds
from jaxdlm.checkpoint.gguf.header import read_header
from jaxdlm.errors import ConfigUnsupported, InputError
from tests.checkpoint import gguf_files as made
from tests.checkpoint.gguf_files import file
from tests.convert.folders import assert_trees_equal, hub_folder


@pytest.mark.parametrize("architecture", made.MODELS)
def test_a_file_is_read_as_its_hub_folder(architecture, tmp_path):
    files, metadata, tensors = made.model(architecture)
    path = made.write(tmp_path / "m.gguf", metadata, tensors)
    source = open_folder(path)
    folder = hub_folder(tmp_path / "hub", files, made.MODELS[architecture][0] | {"torch_dtype": "float32"})
    hub = open_folder(folder)
    tokens = dataclasses.replace(hub.config.tokens, tokenizer_size=made.ROWS, pad=source.config.tokens.pad)
    assert source.config == dataclasses.replace(hub.config, tokens=tokens)
    ours, theirs = load_params(source), load_params(hub)
    if architecture != "gemma3":
        assert_trees_equal(ours, theirs)
        return
    import jax  # 1 + w, rounded to float32, lost some bits of w

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=2**-24), ours, theirs
    )


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_types_of_tensors(kind, tmp_path):
    path = file(tmp_path, "llama", kind)
    source = open_folder(path)
    reader = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors}
    assert source.dtype == (None if kind in ("F16", "BF16") else "bfloat16")
    for name, theirs in (
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("lm_head.weight", "output.weight"),
    ):
        got = source.tensors.read(name)
        assert np.array_equal(got.astype(np.float32), reader[theirs])
        assert np.array_equal(source.tensors.read(name, (3, 7)), got[3:7])
        assert source.tensors.infos[name].nbytes == got.nbytes
    q = source.tensors.read("model.layers.0.self_attn.q_proj.weight")
    assert np.array_equal(made.interleaved(q, 4).astype(np.float32), reader["blk.0.attn_q.weight"])
    for rows in ((0, 1), (5, 19), (31, 32)):  # inside a head and across heads
        assert np.array_equal(source.tensors.read("model.layers.0.self_attn.q_proj.weight", rows), q[slice(*rows)])


@pytest.mark.parametrize("kind", [kind.name for kind in gguf.GGMLQuantizationType])
def test_every_type_that_the_package_dequantises_is_read(kind):
    code = gguf.GGMLQuantizationType[kind]
    block, nbytes = gguf.GGML_QUANT_SIZES[code]
    data = np.random.default_rng(0).integers(0, 64, 3 * nbytes, np.uint8)
    try:
        theirs = gguf.dequantize(data.reshape(3, nbytes), code)
    except NotImplementedError:
        with pytest.raises(CheckpointError, match=f"tensor 't': holds {kind}, which cannot be dequantised"):
            kinds.kind_of(int(code), "t", pathlib.Path("f"))
        return
    ours = kinds.kind_of(int(code), "t", pathlib.Path("f")).values(data)
    assert np.array_equal(ours.astype(np.float32).reshape(3, block), theirs.reshape(3, block), equal_nan=True)


def test_dequantising_in_pieces_changes_nothing(monkeypatch):
    kind = kinds.kind_of(int(gguf.GGMLQuantizationType.Q4_1), "t", pathlib.Path("f"))
    data = np.random.default_rng(1).integers(0, 60, 100 * kind.nbytes, np.uint8)
    whole = kind.values(data)
    monkeypatch.setattr(kinds, "CHUNK", 3 * kind.block)
    assert np.array_equal(kind.values(data), whole)


def test_quantised_files_load_as_bfloat16_unless_told(tmp_path):
    path = file(tmp_path, "qwen2", "Q8_0")
    source = open_folder(path)
    default, wide = load_params(source), load_params(source, dtype="float32")
    assert source.config.param_dtype == "bfloat16" and any("bfloat16 unless" in note for note in source.notes)
    assert default["embed"].dtype == "bfloat16" and wide["embed"].dtype == "float32"
    assert default["final_norm"].dtype == "float32"  # small, and stored so
    assert np.array_equal(np.asarray(wide["embed"]), source.tensors.read("model.embed_tokens.weight"))


def test_llama3_scaling_comes_out_of_its_divisors(tmp_path):
    for factor in (8.0, 32.0):
        scaling = made.LLAMA3 | {"factor": factor}
        _, metadata, tensors = made.model("llama", rope_scaling=scaling)
        rope = open_folder(made.write(tmp_path / f"{factor}.gguf", metadata, tensors)).config.rope
        assert (rope.kind, rope.factor, rope.original_max_position) == ("llama3", factor, 8192)
    _, metadata, tensors = made.model("llama")
    tensors["rope_freqs.weight"] = np.ones(4, np.float32), "F32"
    assert open_folder(made.write(tmp_path / "ones.gguf", metadata, tensors)).config.rope.kind == "default"
    tensors["rope_freqs.weight"] = np.array([1, 2, 3, 4], np.float32), "F32"
    with pytest.raises(ConfigUnsupported, match=r"rope_freqs\.weight holds other divisors"):
        open_folder(made.write(tmp_path / "other.gguf", metadata, tensors))
    for theta in (-1.0, 0.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"other divisors|rope_theta"):
            open_folder(made.write(tmp_path / "theta.gguf", metadata | {"llama.rope.freq_base": theta}, tensors))
    tensors["rope_freqs.weight"] = np.ones(3, np.float32), "F32"
    with pytest.raises(
        CheckpointError, match=r"rope_freqs\.weight.*one number per frequency.*expected \(4,\), got \(3,\)"
    ):
        open_folder(made.write(tmp_path / "short.gguf", metadata, tensors))


def test_layers_of_gemma(tmp_path):
    def config(**keys):
        return open_folder(file(tmp_path, "gemma3", **keys)).config

    assert config().layer_kinds == ("local",) * 5 + ("global", "local") and config().rope_local.kind == "default"
    pattern = {"gemma3.attention.sliding_window_pattern": 3}
    assert config(**pattern).layer_kinds == ("local", "local", "global") * 2 + ("local",)
    listed = {"gemma3.attention.sliding_window_pattern": [True, False, True, True, True, True, False]}
    assert config(**listed).layer_kinds == ("local", "global", *("local",) * 4, "global")
    assert set(config(**{"gemma3.attention.sliding_window": None}).layer_kinds) == {"global"}
    assert config(**{"gemma3.rope.freq_base_swa": 5000.0}).rope_local.theta == 5000.0
    assert config(**{"gemma3.final_logit_softcapping": 30.0}).final_softcap == 30.0


def test_numbers_of_metadata_are_the_decimals_that_were_meant(tmp_path):
    config = open_folder(file(tmp_path)).config
    assert (config.norm_eps, config.rope.theta) == (1e-5, 5e5)  # and not 9.999999747378752e-06


def test_ends_of_a_text(tmp_path):
    keys = {"tokenizer.ggml.eot_token_id": 3, "tokenizer.ggml.eom_token_id": 0, "tokenizer.ggml.padding_token_id": 2}
    tokens = open_folder(file(tmp_path, **keys)).config.tokens
    assert (tokens.eos, tokens.pad, tokens.bos) == ((0, 3), 2, 1)


def test_heads_may_be_counted_per_layer(tmp_path):
    assert open_folder(file(tmp_path, **{"llama.attention.head_count_kv": [2, 2]})).config.num_kv_heads == 2
    with pytest.raises(ConfigUnsupported, match=r"llama\.attention\.head_count_kv differs from layer to layer"):
        open_folder(file(tmp_path, **{"llama.attention.head_count_kv": [2, 4]}))


def test_another_family_may_be_stated(tmp_path):
    path = file(tmp_path, "qwen3", **{"tokenizer.ggml.mask_token_id": 2})
    assert open_folder(path, family="sdar", block_size=4).config.attention == "block_causal"
    with pytest.raises(ConfigUnsupported, match="leave family out"):
        open_folder(path, family="gemma3_text")


def test_the_header_alone_is_read(tmp_path):
    path = file(tmp_path)
    size = path.stat().st_size
    with open(path, "r+b") as data:
        data.truncate(size + 2**33)  # what lies behind a tensor is nobody's business
    header = read_header(path)
    assert max(stored.start + stored.nbytes for stored in header.tensors.values()) <= size


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    import sys

    path = file(tmp_path)
    kinds.package.cache_clear()
    kinds._kind.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"GGUF files are read with the package gguf .*pip install"):
        open_folder(path)
    monkeypatch.undo()
    kinds.package.cache_clear()
