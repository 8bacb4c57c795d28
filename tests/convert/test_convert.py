"""Conversion: bit-exactness, splitting, meshes, resuming, refusing, dtypes."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

import jaxdlm
from checkpoints_convert.__main__ import main
from checkpoints_convert.convert import convert
from checkpoints_convert.export import export
from checkpoints_convert.plan import make_plan
from checkpoints_convert.staging import staging_folder
from checkpoints_convert.verify import read_manifest, verify, verify_source
from jaxdlm.checkpoint import errors, load_params, open_folder, store
from jaxdlm.checkpoint.tensors import open_tensors
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone
from jaxdlm.sharding import make_mesh
from tests.convert.folders import GOLDEN, assert_trees_equal, golden, hub_folder

SMALL = ["--quiet", "--max-leaf-bytes", "100KiB"]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    out = tmp_path_factory.mktemp("intact") / "out"
    assert main([str(GOLDEN / "llada_tiny"), str(out), *SMALL]) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada", "dream", "llada2", "sdar"])
def test_the_recorded_logits_are_met(name, tmp_path):
    assert main([str(GOLDEN / f"{name}_tiny"), str(tmp_path / "out"), *SMALL, "--verify"]) == 0
    opened = open_folder(tmp_path / "out")
    # the recording used blocks of 8 for llada2, whose config.json states none
    block = 8 if name == "llada2" else None
    config = open_folder(GOLDEN / f"{name}_tiny", block_size=block).config
    params, model = load_params(opened), Backbone(config)
    for case in json.loads((GOLDEN / f"logits_{name}.json").read_text())["cases"]:
        ids = np.asarray(case["input_ids"], np.int32)[None]
        position = np.arange(ids.shape[1], dtype=np.int32)[None]
        hidden = model.apply(params, ids, position, np.ones(ids.shape, bool)).hidden
        logits = np.asarray(model.head(params, hidden))[0]
        np.testing.assert_allclose(logits[:, :64], case["logits"], atol=1e-3, rtol=0)
        clear = np.asarray(case["top2_gap"]) > 5e-3
        np.testing.assert_array_equal(logits.argmax(-1)[clear], np.asarray(case["argmax"])[clear])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_restoring_onto_a_mesh_is_bit_equal(name, tmp_path):
    source = GOLDEN / f"{name}_tiny"
    assert main([str(source), str(tmp_path / "out"), *SMALL]) == 0
    whole = load_params(source)
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    for folder in (source, tmp_path / "out"):
        spread = load_params(folder, mesh)
        assert_trees_equal(whole, spread)
        wq = spread["segments"][0][0]["wq"]
        assert wq.sharding.spec == jax.P(None, "fsdp", "tensor", None) and len(wq.sharding.device_set) == 4


EIGHT = """
import sys, jax, jaxdlm, numpy as np
from jaxdlm.sharding import make_mesh
whole, out = (jax.tree.leaves(jaxdlm.load(folder).params) for folder in sys.argv[1:])
for axes in ({"data": 2, "tensor": 4}, {"fsdp": 2, "tensor": 4}):
    lm = jaxdlm.load(sys.argv[2], mesh=make_mesh(axes))
    wq = lm.params["segments"][0][0]["wq"]
    assert len(wq.sharding.device_set) == 8 and wq.addressable_shards[0].data.shape[2] * 4 == wq.shape[2]
    for a, b in zip(whole, jax.tree.leaves(lm.params), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
print("equal")
"""


@pytest.mark.slow
def test_restoring_onto_eight_devices_is_bit_equal(intact):
    """A mesh of 2 x 4, in a process of its own that simulates as many."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", EIGHT, str(GOLDEN / "llada_tiny"), str(intact)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout == "equal\n", result.stderr[-2000:]


@pytest.mark.slow
def test_large_leaves_are_split_and_stacked_again(tmp_path):
    source = open_folder(GOLDEN / "llada_tiny")
    plan = make_plan(source, max_leaf_bytes=100 * 1024)
    convert(plan, tmp_path / "out")
    spec = {leaf.path: leaf for leaf in plan.leaves()}
    assert (
        spec["segments/0/0/gate"].split
        and not spec["final_norm"].split
        and plan.largest < source.leaf("embed").nbytes + 1
    )
    assert_trees_equal(load_params(source), load_params(tmp_path / "out"))


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_killed_run_continues_without_redoing_finished_tensors(tmp_path, monkeypatch):
    files, config = golden("llada")
    source = open_folder(hub_folder(tmp_path / "hub", files, config))
    plan = make_plan(source, max_leaf_bytes=2**17, group_bytes=2**18)
    assert len(plan.groups) > 5
    saved = store.save_group

    def dying(folder, arrays):
        if folder.name == "0003":
            raise Killed
        saved(folder, arrays)

    monkeypatch.setattr(store, "save_group", dying)
    with pytest.raises(Killed):
        convert(plan, tmp_path / "out")
    monkeypatch.setattr(store, "save_group", saved)
    assert not (tmp_path / "out").exists()
    read = []
    original = type(source.tensors).read
    monkeypatch.setattr(
        type(source.tensors), "read", lambda self, name, rows=None: read.append(name) or original(self, name, rows)
    )
    result = convert(plan, tmp_path / "out")
    done = {name for group in plan.groups[:3] for part in group for name in part.sources}
    assert result.resumed == 3 and not done & set(read)
    assert_trees_equal(load_params(source), load_params(tmp_path / "out"))
    assert verify_source(tmp_path / "out", open_tensors(source.folder)) == len(files)
    assert not staging_folder(tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_killed_inside_a_group_continues(tmp_path, monkeypatch):
    """Also where a fused tensor was measured in part before, and Orbax left an unfinished folder."""
    files, config = golden("llada2")
    source = open_folder(hub_folder(tmp_path / "hub", files, config))
    plan = make_plan(source, group_bytes=2**18)
    convert(plan, tmp_path / "whole")
    saved = store.save_group

    def dying(folder, arrays):
        def read(index):
            raise Killed

        saved(folder, {name: dataclasses.replace(array, read=read) for name, array in arrays.items()})

    last = max(n for n, group in enumerate(plan.groups) if any(part.leaf.path.endswith("wq") for part in group))
    monkeypatch.setattr(
        store, "save_group", lambda folder, arrays: (dying if folder.name == f"{last:04d}" else saved)(folder, arrays)
    )
    with pytest.raises(Killed):
        convert(plan, tmp_path / "out")
    monkeypatch.setattr(store, "save_group", saved)
    assert convert(plan, tmp_path / "out").resumed == last > 0
    assert_trees_equal(load_params(source), load_params(tmp_path / "out"))
    assert read_manifest(tmp_path / "out") == read_manifest(tmp_path / "whole")


@pytest.mark.slow
def test_a_changed_source_is_not_resumed(tmp_path, monkeypatch):
    files, config = golden("llada")
    hub = hub_folder(tmp_path / "hub", files, config)
    saved = store.save_group
    monkeypatch.setattr(
        store, "save_group", lambda folder, arrays: (saved(folder, arrays), (_ for _ in ()).throw(Killed))
    )
    with pytest.raises(Killed):
        convert(make_plan(open_folder(hub), group_bytes=2**18), tmp_path / "out")
    monkeypatch.setattr(store, "save_group", saved)
    name = "model.transformer.ln_f.weight"
    hub_folder(hub, files | {name: files[name] + 1}, config)
    assert convert(make_plan(open_folder(hub), group_bytes=2**18), tmp_path / "out").resumed == 0
    assert_trees_equal(load_params(hub), load_params(tmp_path / "out"))


@pytest.mark.slow
def test_dtypes(tmp_path):
    files, config = golden("llada2")
    hub = hub_folder(tmp_path / "hub", files, config)
    for dtype in ("bfloat16", "float32"):
        assert main([str(hub), str(tmp_path / dtype), "--quiet", "--dtype", dtype]) == 0
    params = load_params(tmp_path / "bfloat16")
    moe = params["segments"][1][0]
    assert params["embed"].dtype == jax.numpy.bfloat16 == moe["e_up"].dtype
    assert moe["router_bias"].dtype == np.float32 == moe["attn_norm"].dtype == moe["router"].dtype
    embed = files["model.word_embeddings.weight"]
    assert np.array_equal(np.asarray(params["embed"]), embed.astype(ml_dtypes.bfloat16))
    facts = read_manifest(tmp_path / "bfloat16")["tensors"]["model.word_embeddings.weight"]
    assert 1e-3 < facts["cast_relative_error"] < 2**-8 and facts["rms"] == pytest.approx(
        np.sqrt(np.mean(embed**2)), rel=1e-4
    )
    assert_trees_equal(load_params(tmp_path / "float32"), load_params(hub))
    assert load_params(tmp_path / "float32", dtype="bfloat16")["embed"].dtype == jax.numpy.bfloat16


def test_bfloat16_sources_round_trip(tmp_path):
    files, config = golden("llada")
    files = {name: array.astype(ml_dtypes.bfloat16) for name, array in files.items()}
    hub = hub_folder(tmp_path / "hub", files, config, shards=2)
    assert main([str(hub), str(tmp_path / "out"), *SMALL, "--verify"]) == 0
    export(tmp_path / "out", tmp_path / "back", shard_bytes=10**6)
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 1
    back = open_tensors(tmp_path / "back")
    assert set(back.infos) == set(files) and not back.warnings
    assert all(np.array_equal(back.read(name).view(np.uint16), array.view(np.uint16)) for name, array in files.items())
    assert_trees_equal(load_params(tmp_path / "back"), load_params(hub))


def test_existing_outputs_are_kept_without_force(tmp_path, capsys):
    source = str(GOLDEN / "llada_tiny")
    assert main([source, str(tmp_path / "out"), "--quiet"]) == 0
    assert main([source, str(tmp_path / "out"), "--quiet"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([source, str(tmp_path / "out"), "--quiet", "--force"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert main([source, str(tmp_path / "mine"), "--quiet", "--force"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_dry_run_prints_the_mapping_and_writes_nothing(tmp_path, capsys):
    assert main([str(GOLDEN / "llada2_tiny"), str(tmp_path / "out"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "segments/1/0/e_gate" in text and "expected peak memory" in text and list(tmp_path.iterdir()) == []


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _gate(out, suffix):
    """A file of one layer of a split leaf."""
    return next((out / "params").glob(f"*/segments.0.0.gate.0001/{suffix}"))


DAMAGE = {
    "a flipped byte of a chunk": (lambda out: _flip(_gate(out, "c/0/0")), "gate.0001"),
    "a flipped checksum": (lambda out: _flip_last(_gate(out, "c/0/0")), "gate.0001"),
    "a lost chunk": (lambda out: _gate(out, "c/0/0").unlink(), "gate.0001"),
    "a cut chunk": (lambda out: os.truncate(_gate(out, "c/0/0"), 100), "gate.0001"),
    "another chunk's bytes": (
        lambda out: shutil.copyfile(next((out / "params").glob("*/segments.0.0.up.0001/c/0/0")), _gate(out, "c/0/0")),
        "gate.0001"),
    "a flipped byte of its metadata": (lambda out: _flip(_gate(out, "zarr.json")), "gate.0001"),
    "lost metadata": (lambda out: _gate(out, "zarr.json").unlink(), "gate.0001"),
    "a changed spec.json": (
        lambda out: (out / "spec.json").write_text((out / "spec.json").read_text().replace("1e-05", "1e-06")),
        "spec.json"),
}  # fmt: skip


def _flip_last(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.slow
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_output_is_refused_by_load(case, intact, tmp_path):
    damage, name = DAMAGE[case]
    out = shutil.copytree(intact, tmp_path / "out")
    damage(out)
    with pytest.raises(errors.ChecksumMismatch, match=re.escape(name)) as caught:
        jaxdlm.load(out)
    assert str(out) in str(caught.value) and "\n" not in str(caught.value) and isinstance(caught.value, InputError)


@pytest.mark.slow
def test_damage_is_found_by_the_devices_that_read_it(intact, tmp_path):
    assert_trees_equal(jaxdlm.load(intact).params, load_params(GOLDEN / "llada_tiny"))
    out = shutil.copytree(intact, tmp_path / "out")
    _flip(_gate(out, "c/0/0"))
    with pytest.raises(errors.ChecksumMismatch, match=r"gate\.0001"):
        jaxdlm.load(out, mesh=make_mesh({"fsdp": 2, "tensor": 2}))


def test_a_converted_folder_is_verified_by_the_command(intact, tmp_path, capsys):
    assert main([str(intact), "--verify"]) == 0
    assert "parts equal their checksums" in capsys.readouterr().err
    out = shutil.copytree(intact, tmp_path / "out")
    _flip(_gate(out, "c/0/0"))
    with pytest.raises(errors.ChecksumMismatch, match=r"segments\.0\.0\.gate\.0001"):
        verify(out)
    assert main([str(out), "--verify"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(GOLDEN / "llada_tiny"), "--verify"]) == 2, "a source that was never converted"


@pytest.mark.parametrize("case", ["a flipped byte of a chunk", "another chunk's bytes"])
def test_a_damaged_output_is_not_exported(case, intact, tmp_path):
    out = shutil.copytree(intact, tmp_path / "out")
    DAMAGE[case][0](out)
    with pytest.raises(errors.ChecksumMismatch, match=r"gate\.0001"):
        export(out, tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_orbax_alone_reads_a_group(intact):
    import orbax.checkpoint as ocp

    whole = load_params(GOLDEN / "llada_tiny")
    found = {}
    for folder in sorted((intact / "params").iterdir()):
        found |= ocp.StandardCheckpointer().restore(folder)
    assert np.array_equal(found["embed"], whole["embed"])
    for layer, gate in enumerate(np.asarray(whole["segments"][0][0]["gate"])):
        assert np.array_equal(found[f"segments.0.0.gate.{layer:04d}"], gate)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fused"), [("llada", ()), ("llada2", ("query_key_value",))])
def test_chunks_follow_the_source(name, fused, tmp_path, monkeypatch):
    """Each byte is read once, in many chunks, and measured; a fused tensor, whose leaves lie apart, once more."""
    monkeypatch.setattr(store.chunk_of, "__defaults__", (2**14,))
    files, config = golden(name)
    source = open_folder(hub_folder(tmp_path / "hub", files, config))
    result = convert(make_plan(source), tmp_path / "out")
    twice = sum(array.nbytes for key, array in files.items() if any(word in key for word in fused))
    assert result.bytes_read == sum(array.nbytes for array in files.values()) + twice
    assert len(list(tmp_path.glob("out/params/*/*/c/**/*"))) > 50
    assert_trees_equal(load_params(source), load_params(tmp_path / "out"))
    facts = read_manifest(tmp_path / "out")["tensors"]
    assert set(facts) == set(files) and verify_source(tmp_path / "out", open_tensors(source.folder)) == len(files)
    for name, array in files.items():
        assert facts[name]["min"] == array.min() and facts[name]["max"] == array.max()
        assert facts[name]["rms"] == pytest.approx(np.sqrt(np.mean(np.square(array, dtype=np.float64))), rel=1e-5)


def test_a_flipped_source_byte_is_named(tmp_path):
    files, config = golden("llada")
    hub = hub_folder(tmp_path / "hub", files, config)
    assert main([str(hub), str(tmp_path / "out"), "--quiet"]) == 0
    info = open_tensors(hub).infos["model.transformer.blocks.1.up_proj.weight"]
    raw = bytearray((hub / "model.safetensors").read_bytes())
    raw[info.start + 5] ^= 64
    (hub / "model.safetensors").write_bytes(raw)
    with pytest.raises(errors.ChecksumMismatch, match=r"blocks\.1\.up_proj"):
        verify_source(tmp_path / "out", open_tensors(hub))


def test_internal_check_without_an_oracle(tmp_path, capsys, monkeypatch):
    from checkpoints_convert import oracle

    monkeypatch.setattr(oracle, "class_name", lambda source: None)
    assert main([str(GOLDEN / "llada_tiny"), str(tmp_path / "out"), "--quiet", "--check"]) == 0
    assert "internal check" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")


def test_a_dry_run_of_the_largest_table_needs_no_data(tmp_path):
    from checkpoints_convert.plan import describe
    from jaxdlm.checkpoint.safetensors import header_bytes
    from jaxdlm.models.registry import RELEASED, family_named, released_config

    maps = family_named("llada2_moe").tensors(released_config("llada2-mini"))
    kind = np.dtype(ml_dtypes.bfloat16)
    entries = {name: (kind, tuple(entry.source_shape)) for entry in maps for name in entry.sources}
    assert len(entries) == 14813
    header = header_bytes(entries, {"format": "pt"})
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(2 * int(np.prod(shape)) for _, shape in entries.values()))  # sparse
    (tmp_path / "config.json").write_text(json.dumps(dict(RELEASED["llada2-mini"])))
    plan = make_plan(open_folder(tmp_path))
    assert plan.nbytes > 32e9 and plan.largest < 2**30 and plan.expected_peak < 6e9
    assert "14813 tensors" in list(describe(plan))[-1]
