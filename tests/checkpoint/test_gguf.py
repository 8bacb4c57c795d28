"""GGUF files of every architecture against the Hub folders that they stand for, leaf by leaf."""

import dataclasses
import json
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
from tests.convert.folders import assert_trees_equal, hub_folder


def file(folder: pathlib.Path, architecture: str = "llama", kind: str = "F32", /, **changes):
    """A small model as a file; changes: of its metadata, None to leave a key out."""
    _, metadata, tensors = made.model(architecture, kind)
    for key, value in changes.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    return made.write(folder / "m.gguf", metadata, tensors)


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


# ------------------------------------------------------------------------------------------------------------- bad input


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = file(tmp_path)
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    end = max(stored.start + stored.nbytes for stored in read_header(path).tensors.values())
    points = sorted({*range(64), *range(64, end, max(1, end // 300)), end - 1})
    for size in points:
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf: (is no GGUF file|ends inside|tensor .* lies beyond)"):
            open_folder(cut)
    cut.write_bytes(whole[:end])
    open_folder(cut)


def test_any_byte_may_be_damaged(tmp_path):
    """No exception but ours, and nothing large, whatever byte of the header is changed."""
    path = file(tmp_path)
    data = bytearray(path.read_bytes())
    start = min(stored.start for stored in read_header(path).tensors.values())
    bad = tmp_path / "bad.gguf"
    refused = 0
    for at in np.random.default_rng(0).integers(0, start, 400):
        before = data[at]
        data[at] ^= 0xFF
        bad.write_bytes(data)
        data[at] = before
        try:
            open_folder(bad)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
    assert refused > 200


HEAD = b"GGUF\x03\0\0\0"
COUNTS = "<QQ"


def raw(tmp_path, tensors, keys, body=b""):
    import struct

    path = tmp_path / "raw.gguf"
    path.write_bytes(HEAD + struct.pack(COUNTS, tensors, keys) + body)
    return path


def test_huge_counts(tmp_path):
    import struct
    import tracemalloc

    long = made.text("k") + struct.pack("<IQ", 8, 2**62)
    many = made.text("k") + struct.pack("<IIQ", 9, 8, 2**40)
    wide = made.text("k") + struct.pack("<IIQ", 9, 4, 2**21)
    nested = made.text("k") + struct.pack("<IIQ", 9, 9, 1)
    axes = made.text("t") + struct.pack("<I", 2**31)
    huge = made.text("t") + struct.pack("<IQQQIQ", 3, 2**40, 2**40, 2**40, 0, 0)
    cases = [
        (2**60, 0, b"", "the header claims 1152921504606846976 tensors, more than 100000"),
        (0, 2**60, b"", "the header claims 1152921504606846976 keys, more than 10000"),
        (0, 5, b"", "ends inside key 0 of the metadata"),
        (0, 1, struct.pack("<Q", 2**63), "ends inside key 0 of the metadata"),
        (0, 1, long, "ends inside the value of 'k'"),
        (0, 1, many, "the value of 'k' has 1099511627776 values, more than 4194304"),
        (0, 1, wide, "ends inside the value of 'k'"),
        (0, 1, nested, "the value of 'k' is an array of values of type 9"),
        (0, 1, made.text("k") + struct.pack("<I", 99), "the value of 'k' has a value of the unknown type 99"),
        (0, 1, made.text("k") + struct.pack("<IB", 7, 2), "the value of 'k' is neither true nor false but 2"),
        (0, 1, made.text(b"\xff"), "key 0 of the metadata is not UTF-8"),
        (1, 0, axes, "the entry of tensor 't' has 2147483648 axes, not 1 to 4"),
        (1, 0, huge, "tensor 't': lies beyond the end of the file"),
        (1, 0, made.text("../t"), "not a safe tensor name"),
    ]
    tracemalloc.start()
    try:
        for tensors, keys, body, message in cases:
            with pytest.raises(CheckpointError, match=message):
                read_header(raw(tmp_path, tensors, keys, body))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_without_end_is_not_read_to_its_end(tmp_path):
    import struct

    path = raw(tmp_path, 0, 1, made.text("k") + struct.pack("<IQ", 8, 2**30))
    with open(path, "r+b") as data:
        data.truncate(2**31)  # no byte of which is on the disk
    with pytest.raises(CheckpointError, match="the value of 'k' goes beyond byte 104857600"):
        read_header(path)


def test_versions_and_byte_orders(tmp_path):
    path = file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\x02" + data[5:])
    open_folder(path)
    for version, message in (
        (b"\x01\0\0\0", "of version 1;"),
        (b"\0\0\0\x03", "big-endian"),
        (b"\x09\0\0\0", "of version 9"),
    ):
        path.write_bytes(data[:4] + version + data[8:])
        with pytest.raises(CheckpointError, match=f"the version is {message}"):
            open_folder(path)
    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(
        CheckpointError, match=r"is no GGUF file; give a \*\.gguf file, or the folder that holds config.json"
    ):
        open_folder(path)


def entries(tmp_path, *heads, alignment=32, size=4096, count=None):
    """A file of an empty metadata and these entries."""
    import struct

    path = tmp_path / "entries.gguf"
    keys = made.text("general.alignment") + made.value("u32", alignment)
    path.write_bytes((HEAD + struct.pack(COUNTS, len(heads), 1) + keys + b"".join(heads)).ljust(size, b"\0"))
    return path


def test_places_of_tensors(tmp_path):
    a, b = (lambda offset, name=name: made.entry(name, (4, 8), 0, offset) for name in "ab")
    assert list(read_header(entries(tmp_path, b(128), a(0))).tensors) == ["b", "a"]  # in any order, with room between
    for heads, message in (
        ((a(0), a(128)), "tensor 'a': is there twice"),
        ((a(0), b(64)), "tensor 'b': overlaps tensor 'a'"),
        ((a(7),), "tensor 'a': begins at 7, no multiple of the alignment 32"),
        ((a(2**62),), "tensor 'a': lies beyond the end of the file"),
        ((made.entry("a", (4, 0), 0, 0),), "the entry of tensor 'a' has no values"),
        (
            (made.entry("a", (4, 31), 2, 0),),
            "the entry of tensor 'a' is Q4_0, whose blocks are of 32 values.*rows have 31",
        ),
        ((made.entry("a", (4, 32), 77, 0),), "tensor 'a': has the unknown type 77"),
        ((made.entry("a", (4, 32), 26, 0),), "tensor 'a': holds I32, which cannot be dequantised"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_header(entries(tmp_path, *heads))
    for alignment in (0, 3, 2**31):
        with pytest.raises(CheckpointError, match=r"general\.alignment must be a power of two"):
            read_header(entries(tmp_path, a(0), alignment=alignment))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, r"general\.architecture 'mamba' is not supported.*: one of llama, qwen2"),
        ({"general.architecture": "lama"}, "did you mean 'llama'"),
        ({"general.architecture": None}, r"has no general\.architecture in its metadata"),
        ({"general.architecture": 7}, r"general\.architecture must be a string, got 7"),
        ({"general.type": "adapter"}, r"general\.type is 'adapter'"),
        ({"split.count": 3}, "is one of 3 parts: join them"),
        ({"llama.block_count": 3}, r"llama\.block_count is 3, but the tensors are of 2 layers"),
        ({"llama.block_count": ("u64", 2**63)}, r"llama\.block_count is 9223372036854775808, but"),
        ({"llama.block_count": 1}, r"llama\.block_count is 1, but the tensors are of 2 layers"),
        ({"llama.block_count": "2"}, r"llama\.block_count must be a whole number, got '2'"),
        ({"llama.block_count": True}, r"llama\.block_count must be a whole number, got True"),
        ({"llama.context_length": None}, r"has no llama\.context_length in its metadata"),
        ({"llama.attention.layer_norm_rms_epsilon": "x"}, "layer_norm_rms_epsilon must be a number, got 'x'"),
        ({"llama.embedding_length": 64}, r"tensor 'token_embd\.weight': has a shape that the metadata do not give"),
        ({"llama.feed_forward_length": 32}, r"tensor 'blk\.0\.ffn_gate\.weight': has a shape that the metadata"),
        ({"llama.attention.head_count": 8}, r"tensor 'blk\.0\.attn_q\.weight': has a shape"),
        ({"llama.attention.head_count_kv": 4}, r"tensor 'blk\.0\.attn_k\.weight': has a shape"),
        ({"llama.vocab_size": 99}, r"llama\.vocab_size is of 99 tokens, but token_embd\.weight has 16 rows"),
        (
            {"llama.rope.dimension_count": 4, "llama.attention.key_length": 8},
            "rope.dimension_count is 4, the head size 8",
        ),
        ({"llama.attention.value_length": 16}, "value_length is 16, the head size 8"),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
            "rope.scaling.type 'yarn' is not supported",
        ),
        ({"llama.attention.causal": False}, r"llama\.attention\.causal is False, which no LlamaForCausalLM is"),
        ({"llama.expert_count": 8}, r"llama\.expert_count \(8\) is not supported"),
        ({"llama.logit_scale": 0.5}, r"llama\.logit_scale \(0\.5\) is not supported"),
        ({"llama.attention.sliding_window": 4096}, r"llama\.attention\.sliding_window \(4096\) is not supported"),
        (
            {"llama.attention.head_count": 0},
            "its metadata as config.json: num_attention_heads=0: must be a whole number from 1",
        ),
        (
            {"llama.rope.freq_base": float("nan")},
            "its metadata as config.json: rope_theta=nan: must be a number above 0",
        ),
        ({"tokenizer.ggml.eos_token_id": "0"}, r"tokenizer\.ggml\.eos_token_id must be a whole number"),
        (
            {"tokenizer.ggml.eos_token_id": 400},
            r"tokenizer\.ggml\.eos_token_id is 400, but the vocabulary has 16 tokens",
        ),
        ({"tokenizer.ggml.model": "bert"}, r"tokenizer\.ggml\.model 'bert' is not supported \(gpt2, llama\)"),
        ({"tokenizer.ggml.pre": "smolm"}, r"tokenizer\.ggml\.pre 'smolm' is not supported \(did you mean 'smollm'\?\)"),
        (
            {"tokenizer.ggml.pre": None},
            r"has no tokenizer\.ggml\.pre, which says how text is cut into words: convert the model",
        ),
        ({"tokenizer.ggml.tokens": None}, r"has no tokenizer\.ggml\.tokens in its metadata"),
        ({"tokenizer.ggml.tokens": ["a"] * 16}, r"tokenizer\.ggml\.tokens holds 'a' twice"),
        (
            {"tokenizer.ggml.tokens": [1] * 16},
            r"tokenizer\.ggml\.tokens must be an array of strings, got an array of 16",
        ),
        (
            {"tokenizer.ggml.tokens": ["a"]},
            r"tokenizer\.ggml\.tokens is of 1 tokens, but token_embd\.weight has 16 rows",
        ),
        ({"tokenizer.ggml.token_type": [1]}, "token_type has 1 types for 16 tokens"),
        ({"tokenizer.ggml.token_type": [9] * 16}, "token_type holds 9, which is no type of a token"),
        ({"tokenizer.ggml.merges": None}, r"has no tokenizer\.ggml\.merges in its metadata"),
        ({"tokenizer.ggml.merges": ["a z"]}, r"merges holds 'a z', which is no pair of the vocabulary"),
        ({"tokenizer.ggml.merges": ["a b c"]}, r"merges holds 'a b c', which is no pair"),
        ({"tokenizer.ggml.add_bos_token": 1}, "add_bos_token must be true or false, got 1"),
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
            "add_bos_token is true, but there is no bos_token_id",
        ),
        ({"tokenizer.chat_template": 7}, r"tokenizer\.chat_template must be a string, got 7"),
    ],
)
def test_metadata_that_cannot_be(changes, message, tmp_path):
    _, metadata, tensors = made.model("llama")
    tensors.pop("rope_freqs.weight")
    for key, value in changes.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    path = made.write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(InputError, match=message) as caught:
        open_folder(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("gemma3", {"gemma3.attention.sliding_window_pattern": 0}, "sliding_window_pattern must be a number above 0"),
        ("llada", {"diffusion.shift_logits": True}, "shift_logits is true, but LLaDA"),
        ("dream", {"diffusion.shift_logits": False}, "shift_logits is false, but Dream"),
        ("dream", {"dream.attention.causal": True}, r"dream\.attention\.causal is True, which no DreamModel is"),
        ("qwen3moe", {"qwen3moe.expert_gating_func": 2}, "expert_gating_func 2 is not supported"),
        ("qwen3moe", {"qwen3moe.expert_count": 4}, r"tensor 'blk\.0\.ffn_gate_inp\.weight': has a shape"),
        ("qwen3moe", {"qwen3moe.expert_shared_count": 1}, r"expert_shared_count \(1\) is not supported"),
        ("qwen3moe", {"qwen3moe.expert_used_count": None}, "has no qwen3moe.expert_used_count"),
    ],
)
def test_metadata_of_other_architectures_that_cannot_be(architecture, changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        open_folder(file(tmp_path, architecture, **changes))


def test_tensors_that_are_missing_or_strange_go_by_the_files_names(tmp_path):
    _, metadata, tensors = made.model("llama")
    lacking = {name: tensor for name, tensor in tensors.items() if name != "blk.1.ffn_up.weight"}
    with pytest.raises(CheckpointError, match=r"do not fit the metadata: 1 missing: blk\.1\.ffn_up\.weight"):
        open_folder(made.write(tmp_path / "lacking.gguf", metadata, lacking))
    more = tensors | {"blk.1.attn_q.bias": (np.zeros(32, np.float32), "F32")}
    with pytest.raises(CheckpointError, match=r"1 unexpected: blk\.1\.attn_q\.bias"):
        open_folder(made.write(tmp_path / "more.gguf", metadata, more))


def test_what_is_no_file_is_not_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(InputError, match="is not a regular file"):
        open_folder(tmp_path / "pipe.gguf")


def test_a_file_without_a_vocabulary_has_no_tokenizer(tmp_path):
    keys = dict.fromkeys(key for key in made.VOCAB if key.startswith("tokenizer."))
    source = open_folder(file(tmp_path, "llama", **keys | {"tokenizer.ggml.model": "no_vocab", "llama.vocab_size": 16}))
    assert source.config.vocab_size == made.ROWS and set(source.documents) == {"config.json"}
    assert json.dumps(source.documents["config.json"])
