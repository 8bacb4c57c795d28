"""The distribution has a name of its own; another project's `jaxdlm` is noticed; hints name what can be installed."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import jaxdlm
from jaxdlm import distribution
from jaxdlm._load import PACKAGED

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def installed(folder, points="", summary="Linear models"):
    """A folder in which a distribution named jaxdlm is installed."""
    info = folder / "jaxdlm-0.0.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jaxdlm\nVersion: 0.0.9\nSummary: {summary}\n")
    (info / "entry_points.txt").write_text(points)
    return folder


def ours_alone(monkeypatch, folder):
    monkeypatch.setattr(sys, "path", [str(folder)])


def test_name_and_version_are_those_of_the_project():
    assert PROJECT["project"]["name"] == distribution.NAME
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "jaxdlm/distribution.py"
    assert jaxdlm.__version__ == distribution.VERSION


def test_the_name_cannot_be_taken_for_the_other_project():
    """An index refuses names that look like another one: without punctuation, with 1 for i and l, and 0 for o."""
    plain = [re.sub("[-_.]", "", name).translate(str.maketrans("ilo", "110")) for name in (distribution.NAME, "jaxdlm")]
    assert plain[0] != plain[1]


def test_another_projects_files_are_an_import_error(tmp_path, monkeypatch):
    ours_alone(monkeypatch, installed(tmp_path))
    with pytest.raises(
        ImportError, match=r"another project named jaxdlm \(0\.0\.9 Linear models\) .*pip uninstall jaxdlm"
    ):
        distribution.check()


def test_an_earlier_installation_of_this_project_is_no_other(tmp_path, monkeypatch):
    ours_alone(monkeypatch, installed(tmp_path, "[lm_eval.models]\njaxdlm = jaxdlm.eval.harness:JaxDLM\n"))
    distribution.check()


def test_files_of_both_are_noticed_by_the_command(tmp_path):
    """The other project was installed last, and its empty package replaced ours."""
    folder = tmp_path / "jaxdlm"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("cli", "command", "distribution", "errors"):
        (folder / f"{name}.py").write_text((ROOT / "jaxdlm" / f"{name}.py").read_text())
    installed(tmp_path)
    command = [sys.executable, "-c", "from jaxdlm.cli import main"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0 and "pip uninstall jaxdlm" in done.stderr.splitlines()[-1]


def test_hints_name_the_packages_of_an_extra(monkeypatch):
    stated = ["numpy>=2.0", 'lm_eval>=0.4.9; extra == "eval"', "libtpu; sys_platform == 'linux' and extra == 'tpu-aot'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: stated)
    assert distribution.install("eval") == "pip install 'lm_eval>=0.4.9'"
    assert distribution.install("tpu-aot") == "pip install libtpu"


def test_an_extra_that_the_installation_does_not_know_is_named(monkeypatch):
    """Where a checkout is newer than what was installed of it."""
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=2.0"])
    assert distribution.install("gguf") == "pip install '.[gguf]' in the checkout"


def test_hints_without_an_installation(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert distribution.install("ray") == "pip install '.[ray]' in the checkout"


def test_every_hint_names_an_extra_that_exists():
    named = [
        name for file in (ROOT / "jaxdlm").rglob("*.py")
        for name in re.findall(r"distribution\.install\('([\w-]+)'\)", file.read_text())
    ]  # fmt: skip
    extras = PROJECT["project"]["optional-dependencies"]
    hinted = {"eval", "gguf", "grammar", "math", "parallelbench", "parquet", "plot", "qmc", "ray", "tpu-aot"}
    assert set(named) == hinted <= set(extras)
    for name, (_, _, pinned) in PACKAGED.items():
        assert extras[name] == [*extras["gguf"], pinned]


def test_nothing_installs_by_the_others_name():
    """`pip install jaxdlm` and `jaxdlm[extra]` are the other project."""
    files = [
        path for pattern in ("*.md", "*.py", "*.sh", "*.yaml", "*.ipynb", "*.toml") for path in ROOT.rglob(pattern)
        if not {".git", ".venv", ".venv-ci"} & set(path.parts) and path != pathlib.Path(__file__)
    ]  # fmt: skip
    wrong = re.compile(r"jaxdlm\[[a-z]|pip install[^\n]*[ '\"]jaxdlm(?![\w/.-])")
    assert len(files) > 100
    assert not [str(path) for path in files if wrong.search(path.read_text())]


def test_the_users_torch_is_allowed_and_the_tests_one_is_fixed():
    extras = PROJECT["project"]["optional-dependencies"]
    (torch,) = (each for each in extras["convert"] if each.startswith("torch"))
    assert "==" not in torch and ">=" in torch
    assert any(re.fullmatch(r"torch==[\d.]+", each) for each in extras["dev"])
