"""Quantising while converting: what is loaded is what `quantize_params` makes of the loaded source, bit for bit."""

import dataclasses
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxdlm
from checkpoints_convert import __main__ as command
from checkpoints_convert import quantise, staging
from checkpoints_convert.check import check
from checkpoints_convert.convert import convert
from checkpoints_convert.export import export
from checkpoints_convert.plan import make_plan
from checkpoints_convert.verify import read_manifest
from jaxdlm import quant
from jaxdlm.batch.fingerprint import weights
from jaxdlm.checkpoint import errors, load_params, open_folder, spec, store
from jaxdlm.checkpoint.leaf import LeafSpec
from jaxdlm.checkpoint.tensors import open_tensors
from jaxdlm.errors import InputError
from jaxdlm.models.params import fingerprint
from jaxdlm.quant import QuantizedLeaf, Recipe, quantize_params
from jaxdlm.sharding import make_mesh
from tests.convert.folders import GOLDEN, assert_trees_equal, golden, hub_folder
from tests.marks import usual

main = command.main
QUIET = ["--quiet", "--max-leaf-bytes", "100KiB"]
RECIPES = {
    "int4 in groups": Recipe(4, "power", 16),
    "int8 per column, all": Recipe(8, "power", None, ("embed", "lm_head")),
    "int4 per column, uniform": Recipe(4, "uniform", None, ("embed",)),
}


def options(recipe):
    given = ["--quantise", f"int{recipe.bits}", "--kind", recipe.kind]
    given += ["--group", str(recipe.group)] if recipe.group else []
    return given + [word for name in recipe.include for word in ("--include", name)]


def quantised(params, recipe):
    return quantize_params(params, recipe.bits, kind=recipe.kind, group=recipe.group, include=recipe.include)[0]


def assert_same(a, b):
    """Bit for bit, and the same structure; int4 codes have no view as bytes."""
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.int8) if x.dtype == jnp.int4 else x, tree)  # noqa: E731
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)
    assert_trees_equal(wide(a), wide(b))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(source, converted): llada2's experts, fused projections and dense layers as int4, layer by layer, in small blocks."""
    out = tmp_path_factory.mktemp("small") / "out"
    source = GOLDEN / "llada2_tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "BLOCK", 2**11)
        assert main([str(source), str(out), *QUIET, *options(RECIPES["int4 in groups"]), "--verify"]) == 0
    return source, out


def holds(out, source, recipe):
    """Assert that a folder holds what the library makes of the source, on one device or four."""
    expected = quantised(load_params(source), recipe)
    assert_same(load_params(out), expected)
    spread = load_params(out, make_mesh({"fsdp": 2, "tensor": 2}))
    assert_same(spread, expected)
    wq = spread["segments"][0][0]["wq"]
    assert wq.codes.sharding.spec == jax.P(None, "fsdp", "tensor") and len(wq.scale.sharding.device_set) == 4
    assert fingerprint(spread) == fingerprint(expected) != fingerprint(load_params(source))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", usual(RECIPES, "int8 per column, all", "int4 per column, uniform"))
def test_the_folder_holds_what_the_library_makes(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "BLOCK", 2**12)
    source, recipe = GOLDEN / "llada_tiny", RECIPES[recipe]
    assert main([str(source), str(tmp_path / "out"), "--quiet", *options(recipe)]) == 0
    holds(tmp_path / "out", source, recipe)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_so_it_does_layer_by_layer(small):
    source, out = small
    holds(out, source, RECIPES["int4 in groups"])


@pytest.mark.slow
def test_bytes_that_would_lie_on_two_devices(tmp_path):
    """420 ids over four devices: 105 columns each, which are 52 and a half bytes of int4 codes."""
    recipe = Recipe(4, "uniform", 32, ("embed", "lm_head"))
    source = GOLDEN / "dream_tiny"
    assert main([str(source), str(tmp_path / "out"), "--quiet", *options(recipe)]) == 0
    spread = load_params(tmp_path / "out", make_mesh({"tensor": 4}))
    assert_same(spread, quantised(load_params(source), recipe))
    assert spread["lm_head"].codes.sharding.spec == jax.P(None, "tensor")


@pytest.mark.slow
def test_it_runs(small):
    """A loaded model speaks with its codes, on a mesh as on one device; the host reads what they stand for."""
    _, out = small
    lm = jaxdlm.load(out)
    assert isinstance(lm.params["segments"][1][0]["e_up"], QuantizedLeaf)
    spread = jaxdlm.load(out, mesh=make_mesh({"tensor": 2}))
    ids = [[5, 9, 17, 33, 2]]
    np.testing.assert_allclose(np.asarray(lm.logits(ids)), np.asarray(spread.logits(ids)), atol=1e-4)
    for name in ("segments/1/0/e_down", "segments/0/0/wq", "segments/0/0/wo"):
        _, segment, place, key = name.split("/")
        leaf, node = open_folder(out).leaf(name), lm.params["segments"][int(segment)][int(place)][key]
        np.testing.assert_allclose(leaf.read(), node.dequantize(jnp.float32), rtol=1e-6, atol=1e-7)
        index = (slice(0, 1), slice(1, 3), *[slice(None)] * (node.ndim - 2))
        np.testing.assert_array_equal(leaf.read(index), leaf.read()[index])


def test_nothing_larger_than_a_block_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "BLOCK", 2**12)
    seen, read = [], LeafSpec.read
    monkeypatch.setattr(LeafSpec, "read", lambda self, index=None: seen.append(read(self, index)) or seen[-1])
    source = open_folder(GOLDEN / "llada_tiny")
    result = convert(make_plan(source, recipe=Recipe(8, "uniform")), tmp_path / "out")
    quantised_leaves = [leaf for leaf in source.leaves if leaf.path.rpartition("/")[2] in quant._INPUT_AXES]
    heads = 256 * source.config.head_dim  # never less than one head
    assert len(seen) > 100 and max(x.size for x in seen if x.ndim > 2) <= max(2**12, heads) < max(
        leaf.nbytes // 4 for leaf in quantised_leaves
    )
    assert result.bytes_read == sum(info.nbytes for info in source.tensors.infos.values()), "each byte once"


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_killed_run_continues(tmp_path, monkeypatch):
    source = open_folder(GOLDEN / "llada_tiny")
    plan = make_plan(source, max_leaf_bytes=2**17, group_bytes=2**17, recipe=RECIPES["int4 in groups"])
    convert(plan, tmp_path / "whole")
    assert len(plan.groups) > 5
    saved = store.save_group

    def dying(folder, arrays):
        if folder.name != "0004":
            return saved(folder, arrays)

        def read(index):
            raise Killed

        saved(folder, {name: dataclasses.replace(array, read=read) for name, array in arrays.items()})

    monkeypatch.setattr(store, "save_group", dying)
    with pytest.raises(Killed):
        convert(plan, tmp_path / "out")
    monkeypatch.setattr(store, "save_group", saved)
    other = make_plan(source, max_leaf_bytes=2**17, group_bytes=2**17, recipe=Recipe(4, "power", 8))
    assert other.fingerprint != plan.fingerprint
    assert convert(plan, tmp_path / "out").resumed == 4
    assert_same(load_params(tmp_path / "out"), load_params(tmp_path / "whole"))
    assert read_manifest(tmp_path / "out") == read_manifest(tmp_path / "whole")
    assert not staging.staging_folder(tmp_path / "out").exists()


@pytest.mark.slow
def test_dtypes(tmp_path):
    """Codes come from the weights as they are stored; what is not quantised gets the type that was asked for."""
    source = GOLDEN / "llada_tiny"
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--quantise", "int8", "--dtype", "bfloat16"]) == 0
    params, whole = load_params(tmp_path / "out"), quantised(load_params(source), Recipe(8))
    wq = params["segments"][0][0]["wq"]
    assert wq.dtype == jnp.bfloat16 == params["embed"].dtype
    assert np.array_equal(wq.codes, whole["segments"][0][0]["wq"].codes)
    assert load_params(tmp_path / "out", dtype="float32")["segments"][0][0]["wq"].dtype == jnp.float32
    assert open_folder(tmp_path / "out").leaf("segments/0/0/wq").dtype == ml_dtypes.bfloat16


@pytest.mark.slow
def test_a_batch_job_knows_the_codes(small):
    """Its checksum of the weights, of int4 codes as well: other codes are another model."""
    codes = load_params(small[1])["segments"][0][0]["wq"].codes
    other = codes.at[0, 2, 3].set(codes[0, 2, 3] ^ 1)
    assert weights({"wq": codes}) != weights({"wq": other})


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_error_is_stated(small, tmp_path, capsys, monkeypatch):
    from checkpoints_convert import oracle

    source, out = small
    monkeypatch.setattr(oracle, "class_name", lambda source: None)
    check(out, open_folder(source), sys.stdout)
    printed = capsys.readouterr().out
    assert "check: ok" in printed and "KL" in printed and "argmax equal" in printed
    reports = quantize_params(load_params(source), 4, group=16)[1]
    facts = read_manifest(out)["quantised"]
    assert set(facts) == {report.path for report in reports}
    for report in reports:
        found = facts[report.path]
        assert found["relative_error"] == pytest.approx(report.relative_error, rel=1e-4)
        assert f"  int4 power  {report.path}\n" in printed
        assert np.mean(found["exponents"]) == pytest.approx(report.exponent, rel=1e-6)
    files, config = golden("llada2")
    name = "model.layers.1.attention.dense.weight"
    other = hub_folder(tmp_path / "other", files | {name: files[name] * 1.5}, config)
    with pytest.raises(errors.ChecksumMismatch, match=name):
        check(out, open_folder(other), sys.stdout)
    assert "FAILED: the manifest says" in capsys.readouterr().out


@pytest.mark.slow
def test_the_oracle_computes_the_same_from_the_codes(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers")
    from checkpoints_convert import check
    from tests.models import oracles

    monkeypatch.setattr(check, "GROUPS", 1)
    case = oracles.case("qwen2")
    source = hub_folder(tmp_path / "hub", case.files, case.values)
    given = ["--quantise", "int8", "--group", "8", "--include", "embed"]
    assert main([str(source), str(tmp_path / "out"), *QUIET, *given, "--check"]) == 0
    report = capsys.readouterr().out
    assert "check: ok, Qwen2ForCausalLM" in report and "argmax equal 100.00%" in report and "embed" in report


@pytest.mark.slow
def test_an_export_writes_what_the_codes_stand_for(small, tmp_path):
    source, out = small
    export(out, tmp_path / "back")
    back, before = open_tensors(tmp_path / "back"), open_tensors(source)
    assert set(back.infos) == set(before.infos)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    mine, theirs = back.read(name), before.read(name)
    error = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
    assert mine.dtype == theirs.dtype and 0.01 < error < 0.15
    assert np.array_equal(back.read("model.norm.weight"), before.read("model.norm.weight"))
    whole = load_params(out)["segments"][1][0]["e_up"].dequantize(jnp.float32)
    np.testing.assert_allclose(load_params(tmp_path / "back")["segments"][1][0]["e_up"], whole, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_without_codes_are_refused(value, tmp_path, capsys):
    files, config = golden("llada2")
    name = "model.layers.2.mlp.experts.5.down_proj.weight"
    files[name] = files[name].copy()
    files[name][3, 4] = value
    hub = hub_folder(tmp_path / "hub", files, config)
    assert main([str(hub), str(tmp_path / "out"), *QUIET, "--quantise", "int4"]) == 2
    error = capsys.readouterr().err
    assert name in error and "NaN or infinite" in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--quantise", "int4", "--group", "32"], ["--group 32", "48 rows", "16 and its divisors"]),
        (["--quantise", "int4", "--group", "0"], ["--group", "0"]),
        (["--quantise", "int3"], ["int3", "int8"]),
        (["--group", "16"], ["--group", "without --quantise"]),
        (["--kind", "uniform"], ["--kind", "without --quantise"]),
        (["--include", "embed"], ["--include", "without --quantise"]),
        (["--quantise", "int8", "--include", "final_norm"], ["final_norm", "embed"]),
        (["--export", "--quantise", "int8"], ["--quantise", "no effect on --export"]),
        (["--dry-run", "--kind", "power"], ["--kind", "without --quantise"]),
    ],
)
def test_wrong_usage_is_one_line(given, words, tmp_path, capsys):
    assert main([str(GOLDEN / "llada2_tiny"), str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


def test_the_command_s_words_are_the_library_s(tmp_path, small, capsys):
    assert command.KINDS == quant.KINDS and command.DENSE == quant.ALWAYS_DENSE
    assert main([str(GOLDEN / "llada_tiny"), "--dry-run", "--quantise", "int4", "--group", "64"]) == 0
    assert "segments/0/0/wq  [3, 128, 4, 32] int4 (power, groups of 64)" in capsys.readouterr().out
    tied = hub_folder(tmp_path / "tied", *_tied())
    with pytest.raises(InputError, match="--include lm_head: tied has no such weight"):
        make_plan(open_folder(tied), recipe=Recipe(include=("lm_head",)))
    with pytest.raises(InputError, match="is converted already"):
        make_plan(open_folder(small[1]), recipe=Recipe())


def _tied():
    files, config = golden("dream")
    del files["lm_head.weight"]
    return files, config | {"tie_word_embeddings": True}


DAMAGE = {
    "bits": (lambda table: table["quantised"]["segments/0/0/wq"].update(bits=2), "unknown way"),
    "group": (lambda table: table["quantised"]["segments/0/0/wq"].update(group=7), "groups of 7"),
    "wider groups": (lambda table: table["quantised"]["segments/0/0/wq"].update(group=32), "another shape"),
    "another size of code": (lambda table: table["quantised"]["segments/0/0/wq"].update(bits=8), "another shape"),
    "no root": (lambda table: table["quantised"]["segments/0/0/wq"].update(kind="uniform"), "has the arrays"),
    "a norm": (lambda table: table["quantised"].update({"final_norm": table["quantised"]["segments/0/0/wq"]}), "final_norm"),
    "an odd key": (lambda table: table["quantised"]["segments/0/0/wq"].update(zero=1), "damaged"),
    "a list": (lambda table: table.update(quantised=[1]), "damaged"),
    "codes alone": (lambda table: table["quantised"].pop("segments/0/0/wq"), "segments/0/0/wq"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_spec_that_does_not_fit_is_refused(case, small, tmp_path):
    damage, words = DAMAGE[case]
    out = shutil.copytree(small[1], tmp_path / "out")
    table = json.loads((out / "spec.json").read_text())
    assert table["version"] == 3
    table.pop("sha256")
    damage(table)
    spec.write_json(out / "spec.json", table | {"sha256": spec._digest(table)})
    with pytest.raises(InputError, match=words) as caught:
        load_params(out)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_damaged_codes_are_refused(small, tmp_path):
    out = shutil.copytree(small[1], tmp_path / "out")
    for array in ("codes", "scale", "root"):
        path = next((out / "params").glob(f"*/segments.0.0.gate.{array}*/c/0/0" if array != "root" else
                                          "*/segments.0.0.gate.root*/c/0*"))  # fmt: skip
        path = path if path.is_file() else path / "0"
        raw = path.read_bytes()
        path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
        with pytest.raises(errors.ChecksumMismatch, match=rf"gate\.{array}"):
            load_params(out)
        path.write_bytes(raw)
    load_params(out)
