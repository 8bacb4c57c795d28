"""An ordinary forward behind a cache, compiled for TPUs at a released size: memory, copies, compile time; no TPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("libtpu")

ROOT = pathlib.Path(__file__).parents[1]


def report(*options):
    """The JSON of benchmarks/step_memory.py, from a process of its own: libtpu would claim this one's JAX."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
    command = [sys.executable, str(ROOT / "benchmarks" / "step_memory.py"), *options]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_cached_step_of_llada_8b_holds_less_than_the_logits_of_its_block(capsys):
    """Temporaries ≤ 1.1 × bfloat16 [8, 32, 126464] (per chip of four): no row of the vocabulary, no joined keys, no
    relaid weights; and the stored keys and values leave the step in the buffers in which they came."""
    found = report("--target", "v5e:2x2", "--tensor", "4", "--batch", "8")
    with capsys.disabled():
        print(f"\n{found}")
    assert found["ratio"] <= 1.1
    assert not found["copies"]
    stored = 2 * 32 * 8 * 512 * 32 * 128 * 2 // 4
    assert found["aliased"] >= stored
