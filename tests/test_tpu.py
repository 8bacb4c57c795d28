"""The whole decode of an 8B model compiles for TPUs and fits their memory; needs libtpu, no TPU."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("libtpu")

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "tpu_memory.py"
GIB = 2**30
WEIGHTS = 8_015_581_184 * 2  # LLaDA 8B in bfloat16
VOCAB, ROWS, COLUMNS, BLOCK, LAYERS = 126464, 8, 512, 32, 32


def compile_for(topology, folder):
    """Figures and program text. In a process of its own: libtpu serves one at a time and would claim this one's JAX."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
    program = folder / "program.txt"
    options = ["--models", "llada-8b", "--topologies", topology, "--json", "--hlo", str(program)]
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *options], env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1]), program.read_text()


def largest(program, dtype):
    """Elements of the largest array of a type that any instruction makes."""
    shapes = re.findall(rf"\b{dtype}\[([\d,]+)\]", program)
    return max(math.prod(int(size) for size in shape.split(",")) for shape in shapes)


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "tensor"), [("v5e:2x4", 4), ("v5p:2x2x1", 2), ("v6e:2x4", 4)])
def test_decode_of_llada_8b_compiles_and_fits(topology, tensor, tmp_path, capsys):
    need, program = compile_for(topology, tmp_path)
    total = sum(need[name] for name in ("arguments", "temporaries", "output", "program"))
    with capsys.disabled():
        parts = ", ".join(
            f"{name} {need[name] / GIB:.3f}" for name in ("arguments", "temporaries", "output", "program")
        )
        print(f"\n{topology}, {need['mesh']}: {total / GIB:.2f} of {need['limit'] / GIB:.0f} GiB per chip ({parts})")
    share = WEIGHTS / tensor
    assert share <= need["arguments"] < 1.01 * share, "the weights are split over the tensor axis, nothing is twice"
    assert total < need["limit"]
    # the head reads one block of a chip's rows: never float32 logits of all columns, nor of the whole vocabulary
    rows = ROWS // 2
    allowed = max(rows * BLOCK * VOCAB // tensor, rows * LAYERS // tensor * COLUMNS**2)
    assert largest(program, "f32") <= allowed < rows * COLUMNS * VOCAB // tensor
