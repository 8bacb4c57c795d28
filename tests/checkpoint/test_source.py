"""Opening folders: lazy slices, the native format, tied heads, random weights on a mesh."""

import json

import jax
import numpy as np
import pytest

from checkpoints_convert.__main__ import main
from checkpoints_convert.export import export
from checkpoints_convert.verify import verify_source
from jaxdlm.checkpoint import errors, files, load_params, open_folder, random_params
from jaxdlm.checkpoint.safetensors import write_safetensors
from jaxdlm.models.params import init_params, named_specs
from jaxdlm.models.registry import detect, read_config, released_config
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
    read = files.read_range
    monkeypatch.setattr(
        files, "read_range", lambda path, start, count, name: seen.append(count) or read(path, start, count, name)
    )
    leaf.read((slice(0, 1), slice(0, 128), slice(64, 128)))
    assert seen == [64 * 128 * 4]


@pytest.mark.slow
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


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("metadata", [None, {"format": "pt", EMBED: HEAD}], ids=["unsaid", "said"])
def test_a_tied_checkpoint_may_store_the_head_alone(metadata, tmp_path):
    files, config = golden("dream")
    del files[HEAD]
    config = config | {"tie_word_embeddings": True}
    whole = load_params(hub_folder(tmp_path / "whole", files, config))
    files[HEAD] = files.pop(EMBED)
    source = open_folder(hub_folder(tmp_path / "head", files, config, metadata=metadata))
    assert_trees_equal(load_params(source), whole)
    assert source.ignored[HEAD] == f"tied to {EMBED}" and any(EMBED in note for note in source.notes)
    assert main([str(source.folder), str(tmp_path / "out"), "--quiet", "--verify"]) == 0
    assert_trees_equal(load_params(tmp_path / "out"), whole)
    assert verify_source(tmp_path / "out", source.tensors) == len(files)
    export(tmp_path / "out", tmp_path / "back")
    assert_trees_equal(load_params(tmp_path / "back"), whole)


def test_an_untied_checkpoint_without_a_head_or_embedding_is_refused(tmp_path):
    files, config = golden("dream")
    for name in (HEAD, EMBED):
        less = {key: array for key, array in files.items() if key != name}
        with pytest.raises(errors.TensorsMismatch, match=name):
            open_folder(hub_folder(tmp_path / name, less, config))
    # but the file may say that the two are one, whatever config.json says
    del files[HEAD]
    files[EMBED][0, 0] = 5
    params = load_params(hub_folder(tmp_path / "said", files, config, metadata={HEAD: EMBED}))
    np.testing.assert_array_equal(params["lm_head"], params["embed"].T)


def test_any_tensor_may_go_by_the_name_that_was_kept(tmp_path):
    """A model whose layers share weights: the metadata names each tensor that was dropped, and the one that stands for it."""
    files, config = golden("dream")
    kept, dropped = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 2))
    files[dropped] = files[kept].copy()
    whole = load_params(hub_folder(tmp_path / "whole", files, config))
    del files[dropped]
    metadata = {"format": "pt", dropped: kept, "no.such.tensor": kept, "model.norm.weight": "nor.this"}
    source = open_folder(hub_folder(tmp_path / "shared", files, config, metadata=metadata))
    assert_trees_equal(load_params(source), whole)
    assert np.array_equal(source.tensors.read(dropped, (3, 5)), files[kept][3:5]) and not source.ignored
    with pytest.raises(errors.TensorsMismatch, match=dropped):
        open_folder(hub_folder(tmp_path / "unsaid", files, config))


def test_two_shards_that_name_different_tensors_for_one_are_refused(tmp_path):
    files, config = golden("dream")
    folder = hub_folder(tmp_path, files, config, shards=2)
    (folder / "model.safetensors.index.json").unlink()
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        part = {name: array for name, array in list(files.items())[number::2] if name != HEAD}
        write_safetensors(path, part, {HEAD: next(iter(part))})
    with pytest.raises(errors.DuplicateTensor, match=rf"{HEAD}.*was dropped for"):
        open_folder(folder)


GEMMA = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8, "intermediate_size": 24, "sliding_window": 4, "max_position_embeddings": 64, "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
}  # fmt: skip
DIFFUSION = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "text_config": GEMMA["text_config"] | {
        "num_hidden_layers": 6, "global_head_dim": 16, "num_global_key_value_heads": 1, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 8,
    },
}  # fmt: skip


def _random_files(config, names=()):
    """A tensor of each name and shape that the family's table asks for."""
    rng = np.random.default_rng(0)
    maps = list(detect(config).tensors(read_config(config), names))
    return {
        name: rng.normal(size=entry.source_shape).astype(np.float32) for entry in maps for name in entry.sources
    }  # fmt: skip


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model."])
def test_the_head_alone_in_each_layout_of_gemma(prefix, tmp_path):
    files = _random_files(GEMMA, (prefix + "norm.weight",))
    whole = load_params(hub_folder(tmp_path / "whole", files, GEMMA))
    head = "language_model.lm_head.weight" if prefix == "language_model.model." else HEAD
    assert_trees_equal(
        load_params(hub_folder(tmp_path / "both", files | {head: files[prefix + EMBED[6:]]}, GEMMA)), whole
    )
    files[head] = files.pop(prefix + EMBED[6:])
    assert_trees_equal(load_params(hub_folder(tmp_path / "head", files, GEMMA)), whole)


def test_tensors_of_tied_passes_are_read_under_either_name(tmp_path):
    """DiffusionGemma's encoder and decoder are one network but for its scalars; which names are stored is the saver's."""
    ours, theirs = "model.decoder.", "model.encoder.language_model."
    files = _random_files(DIFFUSION)
    whole = load_params(hub_folder(tmp_path / "whole", files, DIFFUSION))
    second = {
        name: name.replace(ours, theirs) for name in files if name.startswith(ours) and "layer_scalar" not in name
    }
    second = {name: twin for name, twin in second.items() if "self_conditioning" not in name}
    renamed = {second.get(name, name): array for name, array in files.items()}
    source = open_folder(hub_folder(tmp_path / "second", renamed, DIFFUSION))
    assert_trees_equal(load_params(source), whole)
    assert set(source.ignored) == set(second.values())
    both = files | {twin: files[name].copy() for name, twin in second.items()}
    assert_trees_equal(load_params(hub_folder(tmp_path / "both", both, DIFFUSION)), whole)
    both[next(iter(second.values()))].flat[0] += 1
    with pytest.raises(errors.ShapeMismatch, match="differs"):
        open_folder(hub_folder(tmp_path / "unequal", both, DIFFUSION))


def test_a_wrong_total_size_is_noted(tmp_path):
    files, config = golden("dream")
    folder = hub_folder(tmp_path, files, config, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] += 1
    path.write_text(json.dumps(index))
    assert any("total_size" in note for note in open_folder(folder).notes)


@pytest.mark.slow
def test_random_weights_are_made_on_their_shards():
    import dataclasses

    config = dataclasses.replace(released_config("llada-8b"), num_layers=2, hidden_size=64, intermediate_size=96,
                                 num_heads=4, num_kv_heads=4, head_dim=16, vocab_size=130000)  # fmt: skip
    mesh = make_mesh({"tensor": 4})
    params = random_params(config, mesh)
    gate = params["segments"][0][0]["gate"]
    assert gate.sharding.spec == jax.P(None, None, "tensor") and gate.addressable_shards[0].data.shape == (2, 64, 24)
    assert gate.dtype == jax.numpy.bfloat16 and float(np.asarray(gate).astype(np.float32).std()) > 0
