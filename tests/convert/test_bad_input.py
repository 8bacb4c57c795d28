"""Each broken or hostile folder gives one line with file, tensor and fix, exit status 2, and leaves nothing behind."""

import errno
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from checkpoints_convert import staging
from checkpoints_convert.__main__ import main
from jaxdlm.checkpoint import store
from jaxdlm.checkpoint.safetensors import write_safetensors
from tests.convert.folders import golden, hub_folder

LN = "model.transformer.ln_f.weight"
HEAD = "model.transformer.ff_out.weight"
UP = "model.transformer.blocks.1.up_proj.weight"


def _write(change_files=None, change_config=None):
    def make(folder):
        files, config = golden("llada")
        files, config = dict(files), dict(config)
        if change_files:
            change_files(files)
        if change_config:
            change_config(config)
        hub_folder(folder, files, config)

    return make


def _then(after):
    def make(folder):
        _write()(folder)
        after(folder)

    return make


def _truncate(folder):
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 10)


def _replace_header(edit):
    def after(folder):
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = edit(raw[8 : 8 + size].decode()).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])

    return after


def _duplicate_key(text):
    entry = json.dumps(json.loads(text)[LN])
    return text.rstrip()[:-1] + f',"{LN}":{entry}}}'


def _overlap(text):
    table = json.loads(text)
    table[LN]["data_offsets"] = [offset - 4 for offset in table[LN]["data_offsets"]]
    return json.dumps(table)


def _two_shards(folder):
    files, config = golden("llada")
    hub_folder(folder, files, config, shards=2)


def _duplicate_in_shards(folder):
    _two_shards(folder)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    files, _ = golden("llada")
    own = {name: files[name] for number, name in enumerate(files) if number % 2 == 1 or name == next(iter(files))}
    write_safetensors(folder / names[1], own)


def _index_escape(folder):
    _two_shards(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][LN] = "../evil.safetensors"
    path.write_text(json.dumps(index))


def _index_missing_shard(folder):
    _two_shards(folder)
    next(iter(sorted(folder.glob("model-*.safetensors")))).unlink()


class Bomb:
    def __reduce__(self):
        return (open, (os.environ.get("JAXDLM_BOMB", "/nonexistent/x"), "w"))


def _pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb()}))


def _loop(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "config.json")


def _shard_loop(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")


def _merged_beside_single(folder):
    """Each expert's tensor under two names: alone, and in the stack that training code saves."""
    files, config = golden("llada2")
    for part in ("gate", "up", "down"):
        names = [name for name in files if f"layers.1.mlp.experts.0.{part}_proj" in name]
        stack = [files[names[0].replace("experts.0.", f"experts.{number}.")] for number in range(config["num_experts"])]
        for layer in range(1, config["num_hidden_layers"]):
            files[f"model.layers.{layer}.mlp.experts.{part}_proj"] = np.stack(stack)
    hub_folder(folder, files, config)


def _set(files, name, value):
    array = np.array(files[name])
    array.flat[3] = value
    files[name] = array


CASES = {
    "truncated": (_then(_truncate), [], ["model.safetensors", "truncated", "download"]),
    "duplicate key": (_then(_replace_header(_duplicate_key)), [], ["model.safetensors", LN, "twice"]),
    "overlap": (_then(_replace_header(_overlap)), [], ["model.safetensors", "overlaps", "model.transformer"]),
    "wrong shape": (
        _write(lambda f: f.update({UP: f[UP][:, :-1].copy()})), [], ["model.safetensors", UP, "(256, 128)", "(256, 127)"]),
    "missing": (_write(lambda f: f.pop(UP)), [], [UP, "1 missing"]),
    "missing head": (_write(lambda f: f.pop(HEAD)), [], [HEAD, "tie"]),
    "unexpected": (_write(lambda f: f.update({"model.extra.weight": f[LN]})), [], ["model.extra.weight", "1 unexpected"]),
    "renamed": (_write(lambda f: f.update({UP + "x": f.pop(UP)})), [], [UP, f"is there: {UP}x"]),
    "integer weights": (_write(lambda f: f.update({UP: f[UP].astype(np.int8)})), [], [UP, "I8", "bfloat16"]),
    "float64 weights": (_write(lambda f: f.update({UP: f[UP].astype(np.float64)})), [], [UP, "F64"]),
    "nan, strict": (_write(lambda f: _set(f, UP, np.nan)), ["--strict"], ["model.safetensors", UP, "1 NaN", "--strict"]),
    "inf, strict": (_write(lambda f: _set(f, LN, np.inf)), ["--strict"], [LN, "1 NaN or infinite"]),
    "too large for float16": (_write(lambda f: _set(f, UP, 1e6)), ["--dtype", "float16"], ["65504", "up", "bfloat16"]),
    "two names for one": (_duplicate_in_shards, [], ["model-00002", "also in model-00001"]),
    "one expert under two names": (_merged_beside_single, [], ["model.layers.1.mlp.experts.0", "unexpected"]),
    "escaping shard": (_index_escape, [], ["index.json", "../evil"]),
    "missing shard": (_index_missing_shard, [], ["model-00001", "does not exist"]),
    "pickle": (_then(_pickle), [], ["pytorch_model.bin", "pickle", "--allow-pickle"]),
    "no weights": (_then(lambda d: (d / "model.safetensors").unlink()), [], ["safetensors"]),
    "no config": (_then(lambda d: (d / "config.json").unlink()), [], ["config.json", "does not exist"]),
    "config is not json": (_then(lambda d: (d / "config.json").write_text("{")), [], ["config.json", "JSON"]),
    "config is a list": (_then(lambda d: (d / "config.json").write_text("[]")), [], ["config.json", "object"]),
    "config key twice": (_then(lambda d: (d / "config.json").write_text('{"a":1,"a":2}')), [], ["config.json", "'a'"]),
    "config is binary": (_then(lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00")), [], ["config.json", "JSON"]),
    "config loop": (_then(_loop), [], ["config.json", "resolved"]),
    "shard loop": (_then(_shard_loop), [], ["model.safetensors", "resolved"]),
    "unknown family": (
        _write(None, lambda c: c.update(architectures=["Mystery"], model_type="mystery")), [], ["config.json", "Mystery"]),
    "unknown family name": (_write(), ["--family", "mystery"], ["mystery", "llada"]),
    "alibi": (_write(None, lambda c: c.update(alibi=True)), [], ["alibi"]),
    "absurd layers": (_write(None, lambda c: c.update(n_layers=10**9)), [], ["n_layers", "1024"]),
    "absurd width": (_write(None, lambda c: c.update(mlp_hidden_size=10**12)), [], ["mlp_hidden_size"]),
    "layers as text": (_write(None, lambda c: c.update(n_layers="3")), [], ["n_layers", "whole number"]),
    "not a folder": (lambda folder: shutil.rmtree(folder, ignore_errors=True), [], ["no such folder"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_is_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    make, options, words = CASES[case]
    monkeypatch.setenv("JAXDLM_BOMB", str(tmp_path / "boom"))
    source = tmp_path / "hub"
    source.mkdir()
    make(source)
    assert main([str(source), str(tmp_path / "out"), "--quiet", *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    assert not (tmp_path / "boom").exists()


def test_nan_without_strict_is_a_warning_with_its_count(tmp_path, capsys):
    source = tmp_path / "hub"
    _write(lambda f: _set(f, UP, np.nan))(source)
    assert main([str(source), str(tmp_path / "out"), "--quiet"]) == 0
    assert f"{UP}: 1 NaN" in capsys.readouterr().err


def test_a_malicious_pickle_never_runs(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("JAXDLM_BOMB", str(tmp_path / "boom"))
    source = tmp_path / "hub"
    _then(_pickle)(source)
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--allow-pickle"]) == 2
    printed = capsys.readouterr().err
    assert "weights_only=True" in printed and "False" not in printed, "nor is it said how to make it run"
    assert not (tmp_path / "boom").exists()
    assert not (tmp_path / "out").exists()


def test_honest_pickles_convert_with_consent(tmp_path):
    torch = pytest.importorskip("torch")
    from jaxdlm.checkpoint import load_params
    from tests.convert.folders import GOLDEN, assert_trees_equal

    files, config = golden("llada")
    source = hub_folder(tmp_path / "hub", files, config)
    (source / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(array) for name, array in files.items()}, source / "pytorch_model.bin")
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--allow-pickle"]) == 0
    assert_trees_equal(load_params(GOLDEN / "llada_tiny"), load_params(tmp_path / "out"))


KINDS = {
    "meta": lambda torch, tensor: tensor.to("meta"),
    "sparse_coo": lambda torch, tensor: tensor.to_sparse(),
    "sparse_csr": lambda torch, tensor: tensor.to_sparse_csr(),
    "nested": lambda torch, tensor: torch.nested.nested_tensor([tensor, tensor]),
    "quantised": lambda torch, tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kinds_of_pickled_tensors_that_are_no_arrays(kind, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    files, config = golden("llada")
    source = hub_folder(tmp_path / "hub", files, config)
    (source / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(array) for name, array in files.items()}
    torch.save(tensors | {UP: KINDS[kind](torch, tensors[UP])}, source / "pytorch_model.bin")
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--allow-pickle"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"{UP!r}: is a {kind} tensor" in lines[0]


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "merges.txt", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_files_that_are_none(name, kind, tmp_path, capsys):
    """A pipe would be waited for, and a link would copy a stranger's choice of file into the output."""
    _write()(tmp_path / "hub")
    path = tmp_path / "hub" / name
    path.unlink(missing_ok=True)
    (tmp_path / "secret").write_text("{}")
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("../secret")
    assert main([str(tmp_path / "hub"), str(tmp_path / "out"), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and name in lines[0] and ("regular file" in lines[0] or "outside the checkpoint" in lines[0])
    assert not (tmp_path / "out").exists()


def _staged(folder):
    """What an interrupted conversion leaves, with somebody's link in it."""
    folder.mkdir()
    (folder / staging.JOURNAL).write_text("{}")
    (folder / "linked").symlink_to("../precious")


PLACES = {
    "a link": (lambda folder: folder.symlink_to("precious"), "not a conversion under way"),
    "somebody's folder": (lambda folder: (folder.mkdir(), (folder / "words").touch()), "not a conversion under way"),
    "a file": (lambda folder: folder.touch(), "not a conversion under way"),
    "a lock of a pipe": (lambda folder: (folder.mkdir(), os.mkfifo(folder / staging.LOCK)), "regular file"),
    "a lock that is a link": (
        lambda folder: (folder.mkdir(), (folder / staging.LOCK).symlink_to("../precious/words")), "regular file"),
    "a journal of a pipe": (lambda folder: (folder.mkdir(), os.mkfifo(folder / staging.JOURNAL)), ""),
    "a journal and a link": (_staged, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_the_temporary_place_is_ours_or_nobodys(case, tmp_path, capsys):
    """Nothing is waited for, and nothing that is not ours is emptied: the conversion refuses, or does without."""
    make, words = PLACES[case]
    _write()(tmp_path / "hub")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "words").write_text("kept")
    make(tmp_path / "out.partial")
    status = main([str(tmp_path / "hub"), str(tmp_path / "out"), "--quiet"])
    error = capsys.readouterr().err
    assert (status, words in error) == ((2, True) if words else (0, True)), error
    assert (tmp_path / "precious" / "words").read_text() == "kept"


def test_a_full_disk_is_a_failure_that_can_continue(tmp_path, capsys, monkeypatch):
    source = tmp_path / "hub"
    _write()(source)
    written = store._write
    full_as_tensorstore_says = ValueError('RESOURCE_EXHAUSTED: Error writing local file "c/0": No space left on device')
    for problem in (full_as_tensorstore_says, OSError(errno.ENOSPC, "No space left on device")):

        def full(array, folder, context, problem=problem):
            raise problem

        monkeypatch.setattr(store, "_write", full)
        assert main([str(source), str(tmp_path / "out"), "--quiet"]) == 1
        assert "disk is full" in capsys.readouterr().err and not (tmp_path / "out").exists()
        assert staging.staging_folder(tmp_path / "out").exists()
    monkeypatch.setattr(store, "_write", written)
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--verify"]) == 0


def test_too_little_space_is_refused_before_writing(tmp_path, capsys, monkeypatch):
    source = tmp_path / "hub"
    _write()(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    assert main([str(source), str(tmp_path / "out"), "--quiet"]) == 2
    assert "space" in capsys.readouterr().err and not staging.staging_folder(tmp_path / "out").exists()


def test_two_conversions_into_one_place_do_not_mix(tmp_path, capsys):
    source = tmp_path / "hub"
    _write()(source)
    with staging.open_staging(tmp_path / "out", "x"):
        assert main([str(source), str(tmp_path / "out"), "--quiet"]) == 2
        assert "another conversion" in capsys.readouterr().err
        assert staging.staging_folder(tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "Missing argument 'SOURCE'"),
        (["hub"], "OUT is missing"),
        (["hub", "out", "--chekc"], "No such option: --chekc (did you mean '--check'?)"),
        (["hub", "out", "--dtype", "int3"], "'int3' is not one of 'keep'"),
        (["hub", "out", "--export", "--dtype", "bfloat16"], "--dtype has no effect on --export: leave it out"),
        (["hub", "--verify", "--check"], "--check has no effect on --verify without OUT: leave it out"),
        (["hub", "--dry-run", "--strict"], "--strict has no effect on --dry-run: leave it out"),
        (["hub", "out", "--max-leaf-bytes", "1 acre"], "'1 acre' is not a size such as 1GiB"),
    ],
)
def test_wrong_usage_is_one_line(arguments, named, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error
    assert error.startswith("checkpoints_convert: ") and error.endswith("; see checkpoints_convert --help\n")


def test_a_folder_has_no_revision(tmp_path, capsys):
    _write()(tmp_path / "hub")
    assert main([str(tmp_path / "hub"), str(tmp_path / "out"), "--revision", "v2"]) == 2
    assert "--revision v2 has no effect on the folder" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interrupted_conversion_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(folder, arrays):
        raise KeyboardInterrupt

    _write()(tmp_path / "hub")
    monkeypatch.setattr(store, "save_group", interrupt)
    assert main([str(tmp_path / "hub"), str(tmp_path / "out"), "--quiet"]) == 130
    assert capsys.readouterr().err == "checkpoints_convert: interrupted; run the same command again to continue\n"
