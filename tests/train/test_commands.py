"""scripts/train.py and scripts/delta.py: no option is ignored, bad input is one line."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(script, arguments, monkeypatch, capsys):
    """(status, stderr) of a script in this process."""
    spec = importlib.util.spec_from_file_location(f"script_{script}", ROOT / "scripts" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--recipe", "tiny", "--rank", "4"], "--rank means nothing to --recipe tiny"),
        (["--recipe", "learn2pd", "--resume"], "--resume means nothing to --recipe learn2pd"),
        (["--recipe", "smollm2-block", "--mesh", "data=2"], "--mesh means nothing to --recipe smollm2-block"),
        (["--recipe", "calibrated", "--model", "tiny-ar"], "calibrated needs --prompts FILE"),
        (["--recipe", "distilled"], "tiny is a diffusion model: distilled takes an autoregressive one"),
        (
            ["--recipe", "distilled", "--model", "tiny-ar", "--temperature", "0"],
            "temperature=0.0: at 0 nothing is drawn",
        ),
        (["--recipe", "dparallel", "--data-minutes", "1"], "--data-minutes means nothing to --recipe dparallel"),
        (["--recipe", "smollm2-block", "--rank", "0"], "rank=0: must be a whole number"),
        (["--recipe", "smollm2-block", "--rank", "66", "--model", "tiny-ar"], "no such token"),
        (["--recipe", "smollm2-block", "--model", "nothing-there"], "no model or folder 'nothing-there'"),
    ],
)
def test_training_refuses_what_means_nothing(options, named, tmp_path, monkeypatch, capsys):
    status, said = run("train", [*options, "--output", tmp_path / "out"], monkeypatch, capsys)
    assert status == 2 and named in said and said.count("\n") == 1


def test_a_delta_that_is_none_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "delta").write_text("hello")
    status, said = run("delta", ["tiny-ar", tmp_path / "delta", tmp_path / "out"], monkeypatch, capsys)
    assert status == 2 and "cannot be read as a delta" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
