"""GGUF files through the converter: what is written, quantised, exported and checked."""

import json

import jax
import numpy as np
import pytest

pytest.importorskip("gguf")

from checkpoints_convert.__main__ import main
from jaxdlm.checkpoint import load_params, open_folder
from jaxdlm.checkpoint.quantised import Dequantised
from jaxdlm.quant import quantize_params
from jaxdlm.text import Tokenizer
from tests.checkpoint import gguf_files as made
from tests.convert.folders import assert_trees_equal


@pytest.fixture
def path(tmp_path):
    _, metadata, tensors = made.model("llama", "Q8_0")
    return made.write(tmp_path / "m.gguf", metadata, tensors)


def test_a_converted_file_is_what_loads_from_it(path, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(path), str(out), "--quiet", "--verify", "--max-leaf-bytes", "8KiB"]) == 0
    assert "note: quantised tensors are loaded as bfloat16" in capsys.readouterr().err
    converted, source = open_folder(out), open_folder(path)
    assert converted.config == source.config and converted.config.param_dtype == "bfloat16"
    assert_trees_equal(load_params(converted), load_params(source))
    ours = Tokenizer.from_folder(out)
    theirs = Tokenizer.from_documents(source.documents)
    assert ours.template == theirs.template == made.VOCAB["tokenizer.chat_template"]
    assert ours.encode_prompt("ab 12<think>") == theirs.encode_prompt("ab 12<think>") and ours.eos == theirs.eos
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["dtype"] == "bfloat16" and manifest["files"] == {"m.gguf": {"bytes": path.stat().st_size}}
    assert manifest["tensors"]["model.norm.weight"]["dtype"] == "float32"


def test_dtypes(path, tmp_path):
    assert main([str(path), str(tmp_path / "wide"), "--quiet", "--dtype", "float32"]) == 0
    assert_trees_equal(load_params(open_folder(tmp_path / "wide")), load_params(open_folder(path), dtype="float32"))
    _, metadata, tensors = made.model("qwen2", "F16")
    half = made.write(tmp_path / "half.gguf", metadata, tensors)
    assert main([str(half), str(tmp_path / "kept"), "--quiet"]) == 0
    kept = load_params(open_folder(tmp_path / "kept"))
    assert kept["embed"].dtype == "float16" and kept["final_norm"].dtype == "float32"
    assert_trees_equal(kept, load_params(open_folder(half)))


def test_an_export_gives_a_folder_of_the_hub(path, tmp_path):
    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 0
    assert main([str(tmp_path / "out"), str(tmp_path / "hub"), "--export"]) == 0
    hub = open_folder(tmp_path / "hub")
    assert hub.kind == "hub" and hub.family.name == "llama"
    assert_trees_equal(load_params(hub), load_params(open_folder(path)))
    ours = Tokenizer.from_folder(tmp_path / "hub")
    assert ours.encode("ab cd") == Tokenizer.from_documents(open_folder(path).documents).encode("ab cd")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_codes_come_from_the_weights_in_float32(bits, path, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(path), str(out), "--quiet", "--quantise", f"int{bits}", "--group", "16"]) == 0
    assert "quantised: 7 tensors" in capsys.readouterr().err
    source = open_folder(path)
    wide, _ = quantize_params(load_params(source, dtype="float32"), bits=bits, kind="power", group=16)
    ours = load_params(open_folder(out), dtype="float32")
    made_of = jax.tree.leaves(ours["segments"]), jax.tree.leaves(wide["segments"])
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*made_of))
    assert all(leaf.dtype == "bfloat16" for leaf in open_folder(out).leaves if isinstance(leaf.tensors, Dequantised))


def test_a_killed_run_continues(path, tmp_path, monkeypatch):
    from checkpoints_convert import convert

    made_plan = convert.store.save_group
    calls = []

    def killed(folder, streams):
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made_plan(folder, streams)

    monkeypatch.setattr("checkpoints_convert.plan.make_plan.__defaults__", ("keep", 2**30, 4000, None))
    monkeypatch.setattr(convert.store, "save_group", killed)
    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 130
    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 0
    assert len(calls) > 3 and len(calls) == len({*calls}) + 1  # the group that was cut short, once more
    assert_trees_equal(load_params(open_folder(tmp_path / "out")), load_params(open_folder(path)))


def test_a_dry_run_reads_the_header_alone(path, capsys):
    assert main([str(path), "--dry-run"]) == 0
    report = capsys.readouterr().out
    assert "<-  model.layers.0.self_attn.q_proj.weight (+1)" in report and "family llama: 21 tensors" in report


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--allow-pickle"], "--allow-pickle has no effect on a GGUF file"),
        (["--revision", "v2"], "--revision v2 has no effect on the file"),
        (["--family", "llama2"], "family 'llama2' is unknown"),
    ],
)
def test_wrong_usage_is_one_line(given, words, path, tmp_path, capsys):
    assert main([str(path), str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_bad_file_is_one_line_and_leaves_nothing(path, tmp_path, capsys):
    path.write_bytes(path.read_bytes()[:-4000])
    assert main([str(path), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"checkpoints_convert: {path}: tensor '") and error.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]


def test_a_file_that_changed_since_is_named(path, tmp_path):
    from checkpoints_convert.verify import verify_source
    from jaxdlm.checkpoint.errors import ChecksumMismatch

    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 0
    with open(path, "r+b") as data:
        data.seek(-40, 2)
        data.write(b"\x55\x66")
    with pytest.raises(ChecksumMismatch, match=r"changed since the conversion"):
        verify_source(tmp_path / "out", open_folder(path).tensors)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", made.MODELS)
def test_the_check_is_against_transformers(architecture, tmp_path, capsys):
    """Where it reads the architecture, against its own reading of the file."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from checkpoints_convert import oracle

    _, metadata, tensors = made.model(architecture, "Q8_0")
    path = made.write(tmp_path / "m.gguf", metadata, tensors)
    assert main([str(path), str(tmp_path / "out"), "--quiet", "--check"]) == 0
    report = capsys.readouterr().out
    own = oracle.reads_itself(open_folder(path))
    assert own == (architecture in ("llama", "qwen2", "qwen3", "qwen3moe", "gemma3"))
    assert "check: ok" in report and ("its own reading of the file" in report) == own


@pytest.mark.slow
def test_the_check_sees_a_wrong_order_of_rows(tmp_path, capsys):
    """Heads that were never interleaved are turned back: only transformers' own reading, not ours, could tell."""
    pytest.importorskip("accelerate")
    _, metadata, tensors = made.model("llama", "Q8_0")
    path = made.write(tmp_path / "m.gguf", metadata, tensors)
    from unittest import mock

    from jaxdlm.checkpoint.gguf import config

    wrong = {
        "llama": config.ARCHITECTURES["llama"].__class__(
            **{**vars(config.ARCHITECTURES["llama"]), "interleaved": False}
        )
    }
    with mock.patch.dict(config.ARCHITECTURES, wrong):
        assert main([str(path), str(tmp_path / "out"), "--quiet", "--check"]) == 1
    assert "check: FAILED" in capsys.readouterr().out
