"""Every family, folder to folder to logits: convert, load, compare with its transformers oracle; export bit-equal."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from checkpoints_convert.__main__ import main
from checkpoints_convert.export import export
from jaxdlm.checkpoint import load_params, open_folder
from jaxdlm.checkpoint.tensors import open_tensors
from jaxdlm.models import Backbone
from tests.convert.folders import assert_trees_equal, hub_folder
from tests.models import oracles


@pytest.mark.slow
@pytest.mark.parametrize("name", oracles.RECIPES)
def test_a_converted_folder_gives_the_oracles_logits(name, tmp_path):
    case, data = oracles.case(name), oracles.batch()
    source = hub_folder(tmp_path / "hub", case.files, case.values, shards=3)
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--verify", "--max-leaf-bytes", "60KiB"]) == 0
    opened = open_folder(tmp_path / "out")
    assert opened.config.family == name.split()[0]
    params = load_params(opened)
    ours = np.asarray(oracles.logits(Backbone(opened.config), params, data.tokens, data.position, data.valid))
    theirs = oracles.oracle_logits(case, data)
    oracles.assert_close(ours[data.valid], theirs[data.valid])  # row 1 is padded: the ragged batch
    assert_trees_equal(params, load_params(source))
    alone = oracles.logits(
        Backbone(opened.config), params, data.tokens[1:, 5:], data.position[1:, 5:], data.valid[1:, 5:]
    )
    oracles.assert_close(np.asarray(alone)[0], theirs[1, 5:])
    export(tmp_path / "out", tmp_path / "back")
    back = open_tensors(tmp_path / "back")
    assert set(back.infos) == set(case.files)
    for key, array in case.files.items():
        got = back.read(key)
        assert got.dtype == array.dtype and np.array_equal(got, array), key


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "gemma3_text", "qwen2"])
def test_what_transformers_saves_is_read_as_it_is(name, tmp_path):
    case = oracles.case(name)
    case.oracle.save_pretrained(tmp_path)
    opened = open_folder(tmp_path)
    assert_trees_equal(load_params(opened), load_params(hub_folder(tmp_path / "own", case.files, case.values)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada", "llada2_moe"])
def test_check_reports_agreement_with_the_oracle(name, tmp_path, capsys):
    case = oracles.case(name)
    source = hub_folder(tmp_path / "hub", case.files, case.values)
    assert main([str(source), str(tmp_path / "out"), "--quiet", "--check"]) == 0
    report = capsys.readouterr().out
    assert "largest logit difference" in report and "check: ok" in report and "argmax equal 100.00%" in report


@pytest.mark.slow
def test_check_fails_where_the_weights_were_swapped(tmp_path, capsys):
    case = oracles.case("dream")
    source = hub_folder(tmp_path / "hub", case.files, case.values)
    files = dict(case.files)
    gate, up = (f"model.layers.1.mlp.{x}_proj.weight" for x in ("gate", "up"))
    files[gate], files[up] = files[up], files[gate]
    swapped = hub_folder(tmp_path / "swapped", files, case.values)
    assert main([str(swapped), str(tmp_path / "out"), "--quiet"]) == 0
    from checkpoints_convert.check import compare

    worst = [result.good for result in compare(tmp_path / "out", open_folder(source))]
    assert worst[0] and not worst[-1]


@pytest.mark.slow
def test_diffusion_gemma_converts_from_what_transformers_saves(tmp_path):
    from tests.models.families.test_diffusion_gemma import case

    oracle, model, params = case()
    oracle.save_pretrained(tmp_path / "hub")
    assert main([str(tmp_path / "hub"), str(tmp_path / "out"), "--quiet", "--verify", "--max-leaf-bytes", "60KiB"]) == 0
    opened = open_folder(tmp_path / "out")
    assert opened.config.family == "diffusion_gemma" and opened.config.global_head_dim == model.config.global_head_dim
    assert_trees_equal(load_params(opened), params)
    export(tmp_path / "out", tmp_path / "back")
    back, hub = open_tensors(tmp_path / "back"), open_tensors(tmp_path / "hub")
    assert len(back.infos) > 100 and set(back.infos) <= set(hub.infos)
    assert all(np.array_equal(back.read(name), hub.read(name)) for name in back.infos)
