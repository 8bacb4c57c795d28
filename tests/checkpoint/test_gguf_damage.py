"""GGUF files that are cut, damaged or hostile: each is refused by name, and nothing of them is run."""

import json

import numpy as np
import pytest

pytest.importorskip("gguf")


from jaxdlm.checkpoint import open_folder
from jaxdlm.checkpoint.errors import CheckpointError
from jaxdlm.checkpoint.gguf.header import read_header
from jaxdlm.errors import InputError
from tests.checkpoint import gguf_files as made
from tests.checkpoint.gguf_files import file


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
