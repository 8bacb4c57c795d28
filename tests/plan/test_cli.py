"""`jaxdlm plan` refuses bad input in one line, before anything is compiled, and reads the compiler's complaint."""

import importlib.util

import pytest

from jaxdlm import cli, distribution
from jaxdlm.plan.aot import DoesNotFit, overflow

GIB = 2**30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "v5e:3x3"], "unknown topology 'v5e:3x3': one of v5e:{1x1,2x2,2x4"),
        (["--topology", "v9"], "unknown topology"),
        (["--model", "llada-9b"], "released shape 'llada-9b' is unknown; one of llada-8b"),
        (["--model", "qwen3-8b"], "has no mask token"),
        (["--cache", "block_exact"], "needs block_causal attention"),
        (["--cache", "double"], "unknown cache 'double' (did you mean 'dual'?)"),
        (["--policy", "treshold"], "did you mean 'threshold'"),
        (["--policy", "prophet", "--cache", "dual"], "looks at the whole canvas"),
        (["--max-new", "512"], "--max-new 512: must lie between 1 and --length 512"),
        (["--length", "100000"], "more than the 4096"),
        (["--block", "0"], "block=0"),
        (["--batch", "0"], "--batch 0: must be greater than 0"),
        (["--tokens-per-forward", "nan"], "--tokens-per-forward nan"),
        (["--tokens-per-forward", "33"], "at most a block, 32"),
        (["--price", "-1"], "--price -1"),
        (["--dtype", "int3"], "--dtype 'int3': one of"),
        (["--mesh", "data=3"], "does not divide the 8 chips"),
    ],
)
def test_bad_input(options, message, capsys):
    command = ["plan", "--model", "llada-8b", "--topology", "v5e:2x4", *options]
    assert cli.main(command) == cli.BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err and err.count("\n") == 1


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
