"""An 8B target with a 0.6B draft, and with heads, compiles for TPUs and fits their memory; needs libtpu, no TPU."""

import json

import pytest

from jaxdlm.models.params import count_params
from jaxdlm.models.registry import released_config
from tests.test_tpu import GIB
from tests.tpu_child import python

pytest.importorskip("libtpu")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_draft_and_target_compile_and_fit():
    """What jaxdlm batch runs on a host of eight chips: the target over two, the draft whole on each."""
    options = ["--topology", "v5e:2x4", "--mesh", "data=4,tensor=2", "--no-search", "--json"]
    models = ["--model", "qwen3-8b", "--policy", "speculative,draft=qwen3-0.6b,k=4"]
    found = json.loads(python("-m", "jaxdlm", "plan", *models, *options))
    target, draft = (2 * count_params(released_config(name)) for name in ("qwen3-8b", "qwen3-0.6b"))
    assert target / 2 + draft <= found["bytes"]["weights"] < 1.01 * (target / 2 + draft)
    assert found["fits"] and found["bytes"]["total"] < found["bytes_available"]
    assert {one["group"] for one in found["forwards"]["every"]["collective_calls"] if one["bytes"] > 100_000} == {2}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("topology", "memory"), [("v5e:2x4", 15.75), ("v6e:2x4", 31.25)])
def test_heads_compile_with_an_8b_target_in_one_loop(topology, memory):
    """EAGLE-3's and DFlash's, as large as they are released: the head whole on each chip, the target over four."""
    made = [json.loads(line) for line in python("-m", "tests.tpu_heads", topology).splitlines()]
    assert [(one["head"], one["topology"]) for one in made] == [("eagle3", topology), ("dflash", topology)]
    target = 2 * count_params(released_config("qwen3-8b"))
    for one in made:
        assert one["loops"] == 1 and not {"infeed", "outfeed", "send", "recv"}.intersection(one["calls"]), one
        assert not any("callback" in call for call in one["calls"]), one
        assert target / 4 < one["weights"] < one["total"] < memory * GIB, one
