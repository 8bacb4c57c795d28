"""I-DLM: told from SDAR, whose architecture its files name."""

import pytest

import jaxdlm as jd
from jaxdlm.checkpoint import open_folder
from jaxdlm.models.families.stable_diffcoder import FAMILY as DIFFCODER
from jaxdlm.models.registry import detect, read_config
from tests.convert.folders import hub_folder
from tests.models import oracles


def test_a_file_that_says_nothing_is_not_guessed(tmp_path) -> None:
    case = oracles.case("idlm")
    assert detect(case.values).name == "idlm" and (case.config.attention, case.config.prediction) == ("causal", "next")
    silent = {key: value for key, value in case.values.items() if key != "use_regular_causal"} | {"block_size": 3}
    assert detect(silent).name == "sdar"
    for name in ("I-DLM-8B", "idlm_8b", "Introspective-Diffusion"):
        folder = hub_folder(tmp_path / name, case.files, silent)
        with pytest.raises(jd.InputError, match="state family='idlm' or family='sdar'"):
            open_folder(folder)
    assert (
        open_folder(folder, family="idlm").config
        == open_folder(hub_folder(tmp_path / "x", case.files, case.values)).config
    )
    assert open_folder(folder, family="sdar").config.attention == "block_causal"
    assert open_folder(hub_folder(tmp_path / "SDAR-8B", case.files, silent)).config.family == "sdar"


def test_stable_diffcoder_is_told_by_its_architecture_alone() -> None:
    values = DIFFCODER.released["stable-diffcoder-8b"]
    config = read_config(values | {"model_type": "llama"})
    assert (config.family, config.block_size, config.tokens.mask, config.prediction) == (
        "stable_diffcoder",
        4,
        5,
        "same",
    )
    assert detect({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).name == "llama"
    assert sum(_size(entry.source_shape) for entry in DIFFCODER.tensors(config)) == 8_250_462_208


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)
