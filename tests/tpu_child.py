"""What a process of its own prints that compiles for TPUs: libtpu would claim this one's JAX."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Kernels that are compiled quickly rather than well, as conftest.py asks of CPUs: small windows of products are unrolled
# less. What is decided before (fusions, layouts, memory, collectives) is the same program, in a third of the time.
QUICK = "--xla_jf_convolution_performance_target=0 --xla_jf_fusion_max_instruction_count_for_window_config=1"


def python(*words: str, quick: bool = True, timeout: float = 600) -> str:
    """Standard output of `python *words` in the project's root. Not `quick`: as users compile."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    env.pop("XLA_FLAGS", None)
    for flags in (QUICK, "") if quick else ("",):  # a libtpu that does not know the flags ends the process
        env["LIBTPU_INIT_ARGS"] = flags
        command = [sys.executable, *words]
        result = subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
        if result.returncode == 0:
            return result.stdout
    raise AssertionError(f"{words} ended with {result.returncode}: {result.stderr[-2000:]}")
