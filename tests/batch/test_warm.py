"""What `jaxdlm warmup` has compiled, a job of the same rows does not compile again."""

import os
import re
import subprocess
import sys

import pytest

from jaxdlm.batch import chunks, slots
from jaxdlm.batch.warm import warm
from jaxdlm.speculative.decode import generate
from tests.batch.jobs import POLICY, job, rows, write
from tests.conformance.toy_models import model
from tests.speculative.toys import PROMPTS
from tests.speculative.toys import model as causal

MIXED = {"max_new": [None, 12], "temperature": [None, 0.5]}


CAUSAL = [{"tokens": list(prompt), "max_new": columns} for prompt in PROMPTS for columns in (3, 12)]


@pytest.mark.parametrize(
    ("asked", "lm", "policy"),
    [(rows(6, **MIXED), lambda: model("same"), POLICY), (CAUSAL, lambda: causal(0), "autoregressive")],
)
def test_every_program_of_a_job_is_ready(tmp_path, asked, lm, policy):
    """Of rows of several lengths and forms of the policy; nothing is decoded, and nothing written."""
    source = write(tmp_path / "in.jsonl", asked)
    made = job(source, tmp_path / "out", lm=lm(), policy=policy)
    program = generate if isinstance(made.engine, chunks.Chunks) else slots.advance
    program.clear_cache()
    lines: list[str] = []
    count = warm(made, lines.append)
    assert count > 1 and len(lines) == count + 1
    assert made.engine.counts.trips == 0 and not list((tmp_path / "out").glob("*"))
    before = program._cache_size()
    assert before == count
    assert made.run() == 0
    assert program._cache_size() == before


@pytest.mark.exhaustive
@pytest.mark.slow
def test_programs_are_kept_for_another_process(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "copy : [ Alan ]"}])
    kept = tmp_path / "programs"
    environment = os.environ | {"JAXDLM_COMPILE_CACHE": str(kept)}
    command = [sys.executable, "-m", "jaxdlm", "warmup", source, "--model", "tiny", "--max-new", "8", "--slots", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"# 1 program ready for 1 row\n$", done.stderr) and done.stdout == ""
    files = {file.name for file in kept.iterdir() if file.name.endswith("-cache")}
    assert any("advance" in name for name in files)
    command = [*command[:3], "batch", source, "--output", str(tmp_path / "out"), *command[5:]]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    more = {file.name for file in kept.iterdir() if file.name.endswith("-cache")} - files
    assert not any("advance" in name or "start" in name for name in more)
