"""An 8B target and a 0.5B draft compile for TPUs and fit their memory; needs libtpu, no TPU."""

import pytest

from tests.tpu_child import report

pytest.importorskip("libtpu")

WEIGHTS = (7_615_616_512 + 494_032_768) * 2  # Qwen2.5 7B and 0.5B in bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v6e:2x4"])
def test_draft_and_target_compile_and_fit(topology):
    need = report("speculative_tpu", "--topology", topology)
    assert need["arguments"] > WEIGHTS / 4 * 0.9, "the weights are split over four chips, and all there"
    assert sum(need[name] for name in ("arguments", "temporaries", "output", "program")) < need["limit"]
