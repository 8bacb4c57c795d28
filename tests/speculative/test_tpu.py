"""An 8B target and a 0.6B draft compile for TPUs and fit their memory; needs libtpu, no TPU."""

import json

import pytest

from jaxdlm.models.params import count_params
from jaxdlm.models.registry import released_config
from tests.tpu_child import python

pytest.importorskip("libtpu")


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
