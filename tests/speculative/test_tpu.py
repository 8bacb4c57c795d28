"""An 8B target and a 0.5B draft compile for TPUs and fit their memory; needs libtpu, no TPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("libtpu")

ROOT = pathlib.Path(__file__).parents[2]
WEIGHTS = (7_615_616_512 + 494_032_768) * 2  # Qwen2.5 7B and 0.5B in bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v6e:2x4"])
def test_draft_and_target_compile_and_fit(topology):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
    command = [sys.executable, "-m", "benchmarks.speculative_tpu", "--topology", topology]
    result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    need = json.loads(result.stdout.splitlines()[-1])
    assert need["arguments"] > WEIGHTS / 4 * 0.9, "the weights are split over four chips, and all there"
    assert sum(need[name] for name in ("arguments", "temporaries", "output", "program")) < need["limit"]
