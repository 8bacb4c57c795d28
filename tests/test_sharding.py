"""The sharding table on four virtual devices."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from checkpoints_convert.__main__ import main as convert
from jaxdlm import sharding
from jaxdlm.checkpoint import load_params, open_folder
from jaxdlm.checkpoint.placement import random_params
from jaxdlm.core.readout import Readout, summarise
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone
from jaxdlm.models.apart import Place
from jaxdlm.models.params import ParamSpec, named_specs
from jaxdlm.models.registry import released_config
from jaxdlm.sharding import RULES, batch_sharding, beside, make_mesh, param_shardings, partition, striped
from tests.convert.folders import GOLDEN, assert_trees_equal
from tests.models.configs import CONFIGS
from tests.models.weights import loud_params


def test_make_mesh() -> None:
    mesh = make_mesh({"data": 2, "tensor": -1})
    assert dict(mesh.shape) == {"data": 2, "tensor": 2}
    assert dict(make_mesh({"tensor": 2}).shape) == {"tensor": 2}
    for wrong in ({"data": 8}, {"data": -1, "tensor": -1}, {"data": 0}):
        with pytest.raises(InputError, match="devices"):
            make_mesh(wrong)


def test_what_goes_beside_the_weights() -> None:
    """Rows along data where they divide; a draft whole; nothing where one device holds the weights."""
    mesh = make_mesh({"data": 2, "tensor": 2})
    weights = [jax.device_put(jnp.ones((4, 4)), NamedSharding(mesh, PartitionSpec(None, "tensor")))]
    rows, draft = beside(weights, {"a": jnp.ones((6, 3)), "b": jnp.ones(6)}, {"w": jnp.ones(5)})
    assert {x.sharding.spec[0] for x in rows.values()} == {"data"} and draft["w"].sharding.is_fully_replicated
    rows, _ = beside(weights, {"a": jnp.ones((5, 3))}, ())
    assert rows["a"].sharding.is_fully_replicated and rows["a"].sharding.mesh == mesh
    alone = jnp.ones((6, 3))
    assert all(x is alone for x in beside([jnp.ones(2)], alone, alone))


def test_partition_rules() -> None:
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    wq = ParamSpec((3, 8, 4, 5), ("layers", "embed", "heads", None), "matrix")
    assert partition(wq, mesh) == PartitionSpec(None, "fsdp", "tensor", None)
    odd = ParamSpec((3, 8, 3, 5), ("layers", "embed", "kv_heads", None), "matrix")
    assert partition(odd, mesh) == PartitionSpec(None, "fsdp", None, None)
    assert partition(wq, make_mesh({"data": 4})) == PartitionSpec(None, None, None, None)
    twice = ParamSpec((4, 4), ("vocab", "ffn"), "matrix")
    assert partition(twice, mesh) == PartitionSpec("tensor", None)


@pytest.mark.parametrize("name", ["llada-8b", "llada2-mini", "diffusion-gemma-26b", "gemma3-4b"])
def test_every_large_leaf_of_a_released_model_is_split(name: str) -> None:
    config = released_config(name)
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    for path, spec in named_specs(config):
        assert {axis for axis in spec.axes if axis} <= set(RULES) | {"layers"}, path
        if np.prod(spec.shape) > 2e7:
            assert any(partition(spec, mesh)), path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "grouped_moe", "prefix_canvas"])
def test_a_sharded_forward_equals_the_plain_one(name: str) -> None:
    config = CONFIGS[name]
    model, mesh = Backbone(config), make_mesh({"data": 2, "tensor": 2})
    params = loud_params(config)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 60, (4, 9)), jnp.int32)
    position = jnp.tile(jnp.arange(9, dtype=jnp.int32)[None], (4, 1))

    @jax.jit
    def logits(params, tokens):
        return model.head(params, model.apply(params, tokens, position, jnp.ones((4, 9), bool)).hidden)

    split = jax.device_put(params, param_shardings(config, mesh))
    sharded = logits(split, jax.device_put(tokens, batch_sharding(mesh)))
    np.testing.assert_allclose(sharded, logits(params, tokens), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_split_head_is_read_in_tiles_without_gathering_it(tied: bool) -> None:
    """Four devices each read their own stripe of every tile: tokens as on one device, and no weight moves."""
    config = dataclasses.replace(CONFIGS["full"], vocab_size=512, tie_embeddings=tied)
    mesh = make_mesh({"tensor": 4})
    params = loud_params(config)
    split = jax.device_put(params, param_shardings(config, mesh))
    hidden = jnp.asarray(np.random.default_rng(0).normal(0, 1, (5, config.hidden_size)), jnp.float32)
    plain = Backbone(config, tile=128)
    model = striped(plain, split)
    assert (
        model.stripes == 4
        and not model.alone
        and striped(plain, params) == dataclasses.replace(plain, alone=True, place=Place("cpu"))
    )

    def read(params, hidden, model):
        return summarise(Readout(hidden, model.head(params, hidden), params, model))

    run = jax.jit(read, static_argnums=2)
    found, expected = run(split, hidden, model), run(params, hidden, plain)
    np.testing.assert_array_equal(found.token, expected.token)
    np.testing.assert_allclose(found.rest, expected.rest, rtol=1e-5)
    talk = re.compile(r"all-gather|all-reduce|collective-permute|all-to-all")
    weights = re.compile(rf"= \(?f32\[({config.hidden_size},512|512,{config.hidden_size})\]\S* all-gather")

    def told(model):
        """What devices say to each other in every tile, and gathered weights of the whole head, wherever that is."""
        lines = run.lower(split, hidden, model).compile().as_text().splitlines()
        assert sum("while/body" in line for line in lines) > 10
        return [line for line in lines if ("while/body" in line and talk.search(line)) or weights.search(line)]

    assert not told(model), "devices talk in every tile"
    assert told(plain), "the guard sees nothing"


@pytest.mark.parametrize(
    ("platform", "columns", "tiles"), [("gpu", 512, 1), ("gpu", 4096, 16), ("gpu", 0, 16), ("tpu", 512, 16)]
)
def test_a_gpu_reads_a_head_whole_whose_logits_are_few(platform: str, columns: int, tiles: int) -> None:
    """512 columns of 131,072 ids are 256 MiB of logits, 4,096 are 2 GiB."""
    model = Backbone(dataclasses.replace(CONFIGS["full"], vocab_size=2**17))
    leaf = types.SimpleNamespace(sharding=types.SimpleNamespace(device_set=[types.SimpleNamespace(platform=platform)]))
    assert striped(model, {"lm_head": leaf}, columns).tiling.count == tiles


@pytest.mark.exhaustive
@pytest.mark.slow
def test_weights_lie_in_the_order_in_which_their_chips_read_them(monkeypatch, tmp_path) -> None:
    """A folder as it is published, a converted one in parts, either on a mesh, and random weights: the same values. A CPU
    stands for a TPU: it reads other orders as well."""
    source, out, mesh = GOLDEN / "llada_tiny", tmp_path / "out", make_mesh({"data": 1, "tensor": 2})
    assert convert([str(source), str(out), "--quiet", "--max-leaf-bytes", "100KiB"]) == 0
    config = open_folder(source).config
    ways = {
        "folder": lambda: load_params(source), "converted": lambda: load_params(out),
        "folder, mesh": lambda: load_params(source, mesh), "converted, mesh": lambda: load_params(out, mesh),
        "random": lambda: random_params(config), "random, mesh": lambda: random_params(config, mesh),
    }  # fmt: skip
    plain = {name: way() for name, way in ways.items()}
    monkeypatch.setattr(sharding, "REORDERS", ("cpu",))
    for name, way in ways.items():
        found = way()
        assert_trees_equal(plain[name], found)
        layer, before = found["segments"][0][0], plain[name]["segments"][0][0]
        assert {key for key in layer if layer[key].format.layout != before[key].format.layout} == {"wq", "wk", "wv"}
        assert (
            layer["wq"].format.layout.major_to_minor == (0, 2, 1, 3) and layer["wq"].sharding == before["wq"].sharding
        )


@pytest.mark.parametrize("platform", ["tpu", "gpu", "cpu"])
def test_only_what_a_tpu_reads_otherwise_is_laid_otherwise(platform: str) -> None:
    place = types.SimpleNamespace(device_set=[types.SimpleNamespace(platform=platform)])
    monkey = lambda layout, place: (layout, place)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "Format", monkey)
        assert sharding.laid("segments/0/0/wo", place) is place and sharding.laid("embed", place) is place
        assert (sharding.laid("segments/0/0/wq", place) is not place) == (platform == "tpu")
