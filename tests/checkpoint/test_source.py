"""Opening folders: lazy slices, the native format, tied heads, random weights on a mesh."""

import json

import jax
import numpy as np
import pytest

from jaxdlm.checkpoint import errors, load_params, open_folder, random_params
from jaxdlm.checkpoint.safetensors import SafetensorsFile, write_safetensors
from jaxdlm.models.params import init_params, named_specs
from jaxdlm.models.registry import released_config
from jaxdlm.sharding import make_mesh
from tests.convert.folders import GOLDEN, assert_trees_equal, golden, hub_folder


@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_slices_equal_the_whole(name):
    rng = np.random.default_rng(0)
    for leaf in open_folder(GOLDEN / f"{name}_tiny").leaves:
        whole = leaf.read()
        assert whole.shape == leaf.shape and whole.dtype == leaf.dtype
        cuts = [sorted(rng.integers(0, n + 1, 2)) for n in leaf.shape]
        index = tuple(slice(int(a), int(b)) for a, b in cuts)
        assert np.array_equal(leaf.read(index), whole[index]), leaf.path


def test_a_slice_reads_only_its_rows(monkeypatch):
    source = open_folder(GOLDEN / "llada_tiny")
    leaf, seen = source.leaf("segments/0/0/gate"), []  # [R, D, F] from [F, D]
    read = SafetensorsFile._bytes
    monkeypatch.setattr(
        SafetensorsFile, "_bytes", lambda self, name, start, count: seen.append(count) or read(self, name, start, count)
    )
    leaf.read((slice(0, 1), slice(0, 128), slice(64, 128)))
    assert seen == [64 * 128 * 4]


def test_native_folders(tmp_path):
    config = open_folder(GOLDEN / "llada_tiny").config
    params = init_params(config, jax.random.key(0), dtype="bfloat16")
    leaves = jax.tree_util.tree_leaves(params)
    names = [name for name, _ in named_specs(config)]
    write_safetensors(tmp_path / "model.safetensors", {n: np.asarray(x) for n, x in zip(names, leaves)})
    raw = {"architectures": ["JaxDLM"], "model_type": "jaxdlm", "jaxdlm": config.to_json()}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    opened = open_folder(tmp_path)
    assert opened.kind == "native" and opened.config.param_dtype == "bfloat16"
    assert_trees_equal(load_params(opened), params)


def test_a_tied_head_is_dropped_if_equal_and_refused_if_not(tmp_path):
    files, config = golden("dream")
    config = config | {"tie_word_embeddings": True}
    files["lm_head.weight"] = files["model.embed_tokens.weight"].copy()
    opened = open_folder(hub_folder(tmp_path / "same", files, config))
    assert "lm_head.weight" in opened.ignored and "lm_head" not in load_params(opened)
    files["lm_head.weight"][0, 0] += 1
    with pytest.raises(errors.ShapeMismatch, match=r"lm_head\.weight.*differs"):
        open_folder(hub_folder(tmp_path / "other", files, config))


def test_a_wrong_total_size_is_noted(tmp_path):
    files, config = golden("dream")
    folder = hub_folder(tmp_path, files, config, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] += 1
    path.write_text(json.dumps(index))
    assert any("total_size" in note for note in open_folder(folder).notes)


def test_random_weights_are_made_on_their_shards():
    import dataclasses

    config = dataclasses.replace(released_config("llada-8b"), num_layers=2, hidden_size=64, intermediate_size=96,
                                 num_heads=4, num_kv_heads=4, head_dim=16, vocab_size=130000)  # fmt: skip
    mesh = make_mesh({"tensor": 4})
    params = random_params(config, mesh)
    gate = params["segments"][0][0]["gate"]
    assert gate.sharding.spec == jax.P(None, None, "tensor") and gate.addressable_shards[0].data.shape == (2, 64, 24)
    assert gate.dtype == jax.numpy.bfloat16 and float(np.asarray(gate).astype(np.float32).std()) > 0
