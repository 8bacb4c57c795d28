"""The list of models is derived: sizes of the specs, chips of their memory, caches of what `decode` accepts."""

import json
import types

import jax
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import cli, policies
from jaxdlm._load import LM, hub_id
from jaxdlm.checkpoint import hub, room
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone, abstract_params
from jaxdlm.models.registry import RELEASED, released_config
from jaxdlm.plan.chips import CHIPS
from jaxdlm.plan.models import entries, fewest
from jaxdlm.resolve import check, resolve_cache, resolve_method

ROWS = {row.name: row for row in entries()}


def test_sizes_are_those_of_the_arrays():
    for name in ("llada-8b", "llada2-mini", "diffusion-gemma-26b"):
        leaves = jax.tree.leaves(abstract_params(released_config(name)))
        assert ROWS[name].weights == sum(leaf.size for leaf in leaves)
        assert ROWS[name].bytes["bfloat16"] == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    tiny = jax.tree.leaves(jd.load("tiny").params)
    assert ROWS["tiny"].bytes["float32"] == sum(leaf.nbytes for leaf in tiny)
    assert set(RELEASED) < set(ROWS)


def test_chips_hold_a_copy_and_fewer_do_not():
    assert ROWS["llada-8b"].chips == {"v5e": 1, "v5p": 1, "v6e": 1, "tpu7x": 1}
    assert ROWS["qwen3-8b"].chips["v5e"] == 2  # 15.26 GiB, and a chip has 15.75
    assert ROWS["llada2-flash"].chips["v5e"] is None and "v5p:2x2x1" in ROWS["llada2-flash"].plan
    config = released_config("dream-7b")
    need = ROWS["dream-7b"].bytes["bfloat16"]
    assert fewest(config, need * 2) == 1 and fewest(config, need) == 2  # with nothing beside it there is no room
    assert fewest(config, need // 20) is None
    assert all(chip.generation in ROWS["tiny"].chips for chip in CHIPS.values())


def test_policy_and_cache_are_accepted_and_exact():
    """The cache for a model's own attention, where there is one."""
    for name, row in ROWS.items():
        if row.cache and name in RELEASED:
            config = released_config(name)
            cache = resolve_cache(row.cache)
            check(LM(Backbone(config), None, None, name), resolve_method(policies.default(config)), cache)
            assert cache.attention in (None, config.attention)
    assert [ROWS[name].cache for name in ("llada-8b", "sdar-8b", "diffusion-gemma-26b", "qwen3-8b")] == [
        "none", "block_exact", "encoder", "",
    ]  # fmt: skip


def test_the_command_prints_and_selects(capsys):
    assert cli.main(["models", "sdar", "8b", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["sdar-8b"] and rows[0]["hub"] == "JetLM/SDAR-8B-Chat"
    assert cli.main(["models", "llada-8b"]) == 0
    assert "14.93 GiB" in capsys.readouterr().out
    assert cli.main(["models", "nothing"]) == cli.BAD_INPUT


class Device:
    """A device of which only the memory is asked."""

    id = 0

    def __init__(self, limit, used) -> None:
        self.limit, self.used = limit, used

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit, "bytes_in_use": self.used}

    def __str__(self) -> str:
        return "chip:0"


@pytest.mark.parametrize(
    ("limit", "used", "fits"), [(None, 0, True), (4000, 0, True), (4000, 1, False), (3999, 0, False)]
)
def test_weights_that_do_not_fit_are_refused_with_the_numbers(monkeypatch, limit, used, fits):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(limit, used)])
    leaves = [("a", (10, 50), 4), ("b", (500,), 4)]
    if fits:
        room.check("it", leaves)
        return
    with pytest.raises(InputError, match=r"it has 0\.00 billion weights, 0\.00 GB of them for chip:0"):
        room.check("it", leaves)


def test_load_asks_before_it_reads(monkeypatch):
    """Of a checkpoint and of random weights."""
    monkeypatch.setattr(room, "_devices", lambda places: {Device(10**6, 0)})
    for name in ("tiny", "shape:llada-8b"):
        with pytest.raises(InputError, match=r"billion weights, .* GB of them for chip:0, which has 0\.00 GB free"):
            jd.load(name)
    assert jd.load("tiny-draft", dtype="bfloat16").config.num_layers  # 0.54 MB


def test_quantised_weights_are_counted_as_they_are_held():
    assert room.per_device([("a", (64, 64), 0.5 + 4 / 64)]) == 64 * 64 // 2 + 64 * 64 * 4 // 64


def test_pull_fetches_by_the_short_name_where_there_is_room(monkeypatch, tmp_path, capsys):
    import huggingface_hub

    asked = []
    files = [
        types.SimpleNamespace(rfilename=name, size=size) for name, size in (("a.safetensors", 10**18), ("x.bin", 1))
    ]

    def info(self, name, files_metadata):
        asked.append(name)
        return types.SimpleNamespace(siblings=files)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: str(tmp_path))
    assert cli.main(["pull", "sdar-8b"]) == cli.BAD_INPUT
    assert "has 1000000000.00 GB to fetch, and the disk of" in capsys.readouterr().err
    files[0].size = 5
    assert cli.main(["pull", "sdar-8b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "sdar-8b",
        "hub": "JetLM/SDAR-8B-Chat",
        "folder": str(tmp_path),
    }
    assert asked == ["JetLM/SDAR-8B-Chat"] * 2
    for name, words in (("sdar-9b", "did you mean 'sdar-8b'?"), ("diffusion-gemma-26b", "nobody has told")):
        assert cli.main(["pull", name]) == cli.BAD_INPUT
        assert words in capsys.readouterr().err


def test_short_names_load_their_hub_id(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "fetched", lambda name, revision: asked.append(name) or np.nan)
    with pytest.raises(Exception):  # noqa: B017 (what comes back is no folder)
        jd.load("llada-8b")
    assert asked == ["GSAI-ML/LLaDA-8B-Instruct"] and hub_id("tiny") == "tiny"
