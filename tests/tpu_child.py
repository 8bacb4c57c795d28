"""What a process of its own prints that compiles for TPUs: libtpu would claim this one's JAX."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
LOCK = pathlib.Path(tempfile.gettempdir()) / f"jaxdlm-test-tpu-{os.getuid()}.lock"
# Kernels that are compiled quickly rather than well, as conftest.py asks of CPUs: small windows of products are unrolled
# less. What is decided before (fusions, layouts, memory, collectives) is the same program, in a third of the time.
QUICK = "--xla_jf_convolution_performance_target=0 --xla_jf_fusion_max_instruction_count_for_window_config=1"


def report(script: str, *options: str, quick: bool = True) -> dict:
    """The JSON of a script in benchmarks/."""
    return json.loads(python(f"benchmarks/{script}.py", *options, quick=quick).splitlines()[-1])


def python(*words: str, quick: bool = True) -> str:
    """Standard output of `python *words` in the project's root. Not `quick`: as users compile, and with no other of these
    processes beside it, which would count in its time."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
    for flags in (QUICK, "") if quick else ("",):  # a libtpu that does not know the flags ends the process
        env["LIBTPU_INIT_ARGS"] = flags
        command = [sys.executable, *words]
        with LOCK.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH if quick else fcntl.LOCK_EX)
            result = subprocess.run(
                command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
            )
        if result.returncode == 0:
            return result.stdout
    raise AssertionError(f"{words} ended with {result.returncode}: {result.stderr[-2000:]}")
