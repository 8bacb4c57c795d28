"""`jaxdlm plan` refuses bad input in one line, before anything is compiled, and reads the compiler's complaint."""

import importlib.util
import json
import re
import shlex

import pytest
from jax.sharding import AbstractMesh

from jaxdlm import cli, distribution
from jaxdlm.batch.cli import batch
from jaxdlm.models import explain
from jaxdlm.plan import search
from jaxdlm.plan.aot import Compiled, DoesNotFit, Memory, overflow

GIB = 2**30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "v5e:3x3"], "unknown topology 'v5e:3x3': one of v5e:{1x1,2x2,2x4"),
        (["--topology", "v9"], "unknown topology"),
        (["--model", "llada-9b"], "released shape 'llada-9b' is unknown; one of a2d-qwen3-0.6b"),
        (["--model", "qwen3-8b", "--policy", "threshold"], "has no mask token"),
        (["--model", "qwen3-8b", "--cache", "prefix"], "always keeps its keys and values"),
        (["--policy", "autoregressive"], "is a diffusion model"),
        (["--model", "qwen3-8b", "--policy", "speculative,draft=tiny-draft"], "different vocabularies"),
        (["--model", "qwen3-8b", "--policy", "speculative,draft=qwen3-0.6"], "'qwen3-0.6' is unknown"),
        (["--model", "qwen3-8b", "--policy", "lookup,k=4", "--tokens-per-forward", "6"], "a draft and one token, 5"),
        (["--cache", "block_exact"], "needs block_causal attention"),
        (["--cache", "double"], "unknown cache 'double' (did you mean 'dual'?)"),
        (["--policy", "treshold"], "did you mean 'threshold'"),
        (["--policy", "prophet", "--cache", "dual"], "looks at the whole canvas"),
        (["--max-new", "512"], "--max-new 512: must lie between 1 and --length 512"),
        (["--length", "100000"], "more than the 4096"),
        (["--block", "0"], "block=0"),
        (["--batch", "0"], "--batch=0: must be a whole number, at least 1"),
        (["--tokens-per-forward", "nan"], "--tokens-per-forward=nan: must be"),
        (["--tokens-per-forward", "33"], "at most a block, 32"),
        (["--price", "-1"], "--price=-1.0: must be a finite number, at least 0"),
        (["--dtype", "int3"], "--dtype='int3': must be one of"),
        (["--policy", "autoregressive", "--block", "4"], "block=4: an autoregressive model writes no blocks"),
        (["--policy", "autoregressive", "--cache", "dual"], "leave cache out"),
        (["--mesh", "data=²"], "write it as data=2,tensor=4"),
        (["--mesh", f"data={10**20}"], "does not divide the 8 chips"),
        (["--length", str(10**20)], "--length=100000000000000000000: must be"),
        (["--mesh", "data=3"], "does not divide the 8 chips"),
    ],
)
def test_bad_input(options, message, capsys):
    command = ["plan", "--model", "llada-8b", "--topology", "v5e:2x4", *options]
    assert cli.main(command) == cli.BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err and err.count("\n") == 1


PROGRAM = """ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} add(%p, %p)
}
"""


@pytest.fixture
def compiler(monkeypatch):
    """Shapes of meshes in place of a slice, and memory in place of the compiler; the other figures are the plan's."""
    memory = Memory(weights=7 * GIB, cache=2 * GIB, rows=1000, temporaries=3 * GIB, program=10)
    monkeypatch.setattr(search, "compile_decode", lambda job, mesh, text=True: Compiled(memory, PROGRAM, 1.0))
    monkeypatch.setattr(search, "slice_mesh", lambda topology, axes: AbstractMesh(tuple(axes.values()), tuple(axes)))
    monkeypatch.setattr("jaxdlm.plan.aot.prepare", lambda: None)
    monkeypatch.setattr(search, "weights_per_chip", lambda job, mesh: 7 * GIB)


def planned(capsys, *options):
    """(what is printed, the same as JSON)"""
    command = ["plan", "--no-search", *options]
    assert cli.main(command) == cli.OK
    text = capsys.readouterr().out
    assert cli.main([*command, "--json"]) == cli.OK
    return text, json.loads(capsys.readouterr().out)


LLADA = ["--model", "llada-8b", "--topology", "v5e:4x4", "--mesh", "data=8,tensor=2", "--tokens-per-forward", "4"]


def test_the_command_of_the_job_is_printed(compiler, capsys):
    """A mesh of jaxdlm batch is that of one host: four chips of sixteen."""
    text, found = planned(capsys, *LLADA, "--cache", "dual", "--batch", "128")
    command = text.splitlines()[-1]
    assert command == found["command"] and command.startswith("jaxdlm batch INPUT --output DIR ")
    args = batch.make_context("jaxdlm batch", shlex.split(command)[2:]).params
    wanted = {
        "model": "shape:llada-8b:bfloat16", "policy": "threshold", "cache": "dual", "max_new": 256, "block": 32,
        "slots": 16, "mesh": "data=2,tensor=2", "distributed": True,
    }  # fmt: skip
    assert {name: args[name] for name in wanted} == wanted


def test_a_copy_that_spans_hosts_has_no_command(compiler, capsys):
    options = ["--model", "llada-8b", "--topology", "v5e:4x4", "--mesh", "data=2,tensor=8"]
    text, found = planned(capsys, *options)
    assert found["command"] is None and "jaxdlm batch runs no such job" in text


def test_every_figure_is_said_once(compiler, capsys):
    text, found = planned(capsys, *LLADA, "--cache", "dual", "--price", "2")
    for key in ("tokens_per_second", "chip_hours_per_million", "price_per_million"):
        shown = f"{found[key]:,.0f}" if key == "tokens_per_second" else f"{found[key]:.4g}"
        assert len(re.findall(rf"(?<![\d.,]){re.escape(shown)}(?![\d.,])", text)) == 1, (key, shown)
    more, _ = planned(capsys, *LLADA, "--cache", "dual", "--tokens", "2e6")
    assert "chip-hours for 2e+06 tokens" in more and "chip-hours per million tokens" in more


def test_kinds_of_forwards_are_explained(compiler, capsys):
    text, _ = planned(capsys, *LLADA, "--cache", "dual")
    assert "first: a forward in which the cache reads everything again" in text and "(12.5 % of a row's)" in text
    assert "other: a forward that reads what a step of the cache reads (87.5 % of a row's)" in text
    text, _ = planned(capsys, *LLADA)
    assert "every: every forward is like every other (100 % of a row's)" in text and "first" not in text


def test_what_was_chosen_is_said_where_it_is_asked_for(compiler, monkeypatch, capsys):
    """Whatever the program's parts noted while it was traced, each line once."""
    memory = Memory(weights=GIB, cache=0, rows=0, temporaries=0, program=0)

    def traced(job, mesh, text=True):
        explain.note("experts: kernel (tokamax: for GPUs)")
        explain.note("experts: kernel (tokamax: for GPUs)")
        return Compiled(memory, PROGRAM, 1.0)

    monkeypatch.setattr(search, "compile_decode", traced)
    for options, times in (([], 0), (["--explain"], 1)):
        assert cli.main(["plan", "--no-search", *LLADA, *options]) == cli.OK
        assert capsys.readouterr().err.count("# experts: kernel (tokamax: for GPUs)\n") == times


@pytest.mark.parametrize("policy", ["autoregressive", "speculative,draft=qwen3-0.6b,k=4"])
def test_autoregressive_models_are_planned(compiler, capsys, policy):
    options = ["--model", "qwen3-8b", "--topology", "v5e:2x4", "--mesh", "data=4,tensor=2", "--policy", policy]
    text, found = planned(capsys, *options, "--batch", "32")
    assert "every: a forward of the target, and those of its draft" in text
    assert (found["block"], found["cache"]) == (None, None) and found["forwards"]["every"]["weight_bytes"] > 7e9
    args = batch.make_context("jaxdlm batch", shlex.split(found["command"])[2:]).params
    assert args["policy"] == policy.replace("qwen3-0.6b", "shape:qwen3-0.6b:bfloat16"), "what can be loaded"
    assert (args["slots"], args["mesh"], args["distributed"]) == (8, "data=4,tensor=2", False)


def test_without_libtpu_the_extra_is_named(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "libtpu" else find(name, *rest)
    )
    assert cli.main(["plan", "--model", "llada-8b", "--topology", "v5e:2x4"]) == cli.BAD_INPUT
    assert f"libtpu is not installed: {distribution.install('tpu-aot')}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        ("RESOURCE_EXHAUSTED: memory required for HLO temporaries (512.00G) exceeds available HBM (15.75G).", 512, 15.75),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.05G of 15.75G hbm. Exceeded", 21.05, 15.75),
    ],
)  # fmt: skip
def test_the_compilers_complaint(message, needed, available):
    error = overflow(message)
    assert isinstance(error, DoesNotFit)
    assert (error.needed, error.available) == (int(needed * GIB), int(available * GIB))
    assert overflow("INTERNAL: something else") is None
    assert overflow("RESOURCE_EXHAUSTED: out of registers").needed is None
