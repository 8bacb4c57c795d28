"""The tables: complete, each leaf once, and an inverse that loses no bit."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxdlm.models import count_params
from jaxdlm.models.hub_config import Hints
from jaxdlm.models.params import named_specs
from jaxdlm.models.registry import FAMILIES, RELEASED, detect, family_named, released_config
from jaxdlm.models.table import Op, Piece
from tests.models.configs import BASE, CONFIGS, shrunk

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
TENSORS = {"llada-8b": 291, "llada-moe-7b": 3219, "llada2-mini": 14813, "dream-7b": 339, "sdar-4b": 399, "sdar-8b": 399}


def maps(config, names=()):
    return list(family_named(config.family).tensors(config, names))


@pytest.mark.parametrize("name", TENSORS)
def test_number_of_tensors_of_released_models(name: str) -> None:
    assert len({source for entry in maps(released_config(name)) for source in entry.sources}) == TENSORS[name]


@pytest.mark.parametrize("config", [*map(released_config, RELEASED), *CONFIGS.values()])
def test_each_leaf_and_layer_is_filled_exactly_once(config) -> None:
    found = [("/".join(map(str, entry.path)), entry.layer) for entry in maps(config)]
    assert len(found) == len(set(found))
    by_name: dict[str, list] = {}
    for path, layer in found:
        by_name.setdefault(path, []).append(layer)
    for name, spec in named_specs(config):
        assert by_name[name] in ([None], list(range(spec.shape[0])))
    assert set(by_name) == {name for name, _ in named_specs(config)}


def test_pieces_cover_their_source_without_overlap() -> None:
    for name in ("llada2-mini", "diffusion-gemma-26b"):
        shared: dict[str, list] = {}
        for entry in maps(released_config(name)):
            if entry.op.piece is not None:
                for source in entry.sources:
                    shared.setdefault(source, []).append((entry.op.piece, entry.source_shape))
        assert shared
        for pieces in shared.values():
            total = pieces[0][1][pieces[0][0].axis]
            ends = sorted((piece.start, piece.stop) for piece, _ in pieces)
            assert [start for start, _ in ends] == [0] + [stop for _, stop in ends[:-1]] and ends[-1][1] == total


def roundtrip(config, names, sources: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Forward and inverse of every entry, pieces put back where they came from."""
    back: dict[str, np.ndarray] = {}
    for entry in maps(config, names):
        leaf = entry.op.forward([sources[source] for source in entry.sources])
        for source, part in zip(entry.sources, entry.op.inverse(leaf), strict=True):
            whole = back.setdefault(source, np.full(entry.source_shape, 7, leaf.dtype))
            entry.op.cut(whole)[...] = part
    return back


def random_sources(config, names=()) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {source: entry.source_shape for entry in maps(config, names) for source in entry.sources}
    return {source: rng.integers(0, 2**16, shape).astype(np.uint16) for source, shape in shapes.items()}


@pytest.mark.parametrize("name", ["llada", "dream", "llada2", "sdar"])
def test_export_of_a_golden_checkpoint_is_bit_identical(name: str) -> None:
    folder = GOLDEN / f"{name}_tiny"
    values = json.loads((folder / "config.json").read_text())
    config = detect(values).read_config(values, Hints(block_size=8))
    sources = load_file(folder / "model.safetensors")
    back = roundtrip(config, sources, sources)
    assert set(back) == set(sources)
    for source, array in sources.items():
        assert back[source].tobytes() == array.tobytes(), source
    assert count_params(config) == sum(array.size for array in sources.values())


def tiny(family: str):
    """A configuration with every feature of the family's table: a released one, made small."""
    released = next(iter(family_named(family).released), None)
    return shrunk(released_config(released)) if released else BASE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_inverse_of_every_family_is_bit_identical(family: str) -> None:
    config = tiny(family)
    sources = random_sources(config)
    back = roundtrip(config, (), sources)
    for source, array in sources.items():
        np.testing.assert_array_equal(back[source], array, err_msg=source)


def test_merged_experts_give_the_same_leaves() -> None:
    config = tiny("llada2_moe")
    sources = random_sources(config)
    merged = {name: array for name, array in sources.items() if ".experts." not in name}
    for layer in range(1, config.num_layers):
        for part in ("gate", "up", "down"):
            stem = f"model.layers.{layer}.mlp.experts."
            merged[f"{stem}{part}_proj"] = np.stack(
                [sources[f"{stem}{e}.{part}_proj.weight"] for e in range(config.num_experts)]
            )
    usual = {(entry.path, entry.layer): entry.op.forward([sources[s] for s in entry.sources]) for entry in maps(config)}
    for entry in maps(config, merged):
        leaf = entry.op.forward([merged[source] for source in entry.sources])
        np.testing.assert_array_equal(leaf, usual[entry.path, entry.layer])
    assert {source for entry in maps(config, merged) for source in entry.sources} == set(merged)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_multimodal_prefixes_of_gemma(prefix: str) -> None:
    config = tiny("gemma3_text")
    plain = [source for entry in maps(config) for source in entry.sources]
    names = [prefix + source.removeprefix("model.") for source in plain]
    assert [source for entry in maps(config, names) for source in entry.sources] == names


def test_llada_s_two_ff_out_stay_apart() -> None:
    by_path = {(entry.path, entry.layer): entry for entry in maps(tiny("llada"))}
    assert by_path[("lm_head",), None].sources == ("model.transformer.ff_out.weight",)
    assert by_path[("segments", 0, 0, "down"), 1].sources == ("model.transformer.blocks.1.ff_out.weight",)


def test_an_op_by_hand() -> None:
    fused = np.arange(24).reshape(6, 4)
    op = Op((4, 4), (2, 2, 4), (2, 0, 1), Piece(0, 2, 6))
    leaf = op.forward([fused])
    assert leaf.shape == (4, 2, 2) and leaf[3, 1, 0] == fused[2 + 2, 3]
    np.testing.assert_array_equal(op.inverse(leaf)[0], fused[2:])
