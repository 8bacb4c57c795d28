"""The notebook runs from top to bottom on a CPU, offline, and is kept without outputs."""

import os
import pathlib
import sys

import jax
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_stripped(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's client: loops and sockets that it closes in its own time
def test_the_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "\n".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "forwards per answer" in text
    assert "exit status 0 | bit-equal: True" in text
    assert (tmp_path / "denoising.html").exists()


@pytest.fixture
def first_cell(notebook, monkeypatch):
    """Runs the cell that installs, in a process where this project is not importable; returns what pip was asked."""
    from IPython.core.inputtransformer2 import TransformerManager

    text = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    code, asked = TransformerManager().transform_cell(text), []

    class Nobody:
        def find_spec(self, name, *rest):
            if name == "jaxdlm.distribution" and not asked:
                raise ImportError(name)

    class Shell:
        def run_line_magic(self, magic, line):
            asked.append(f"{magic} {line}")

    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "jaxdlm"}
    monkeypatch.setattr(sys, "meta_path", [Nobody(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "jaxdlm.distribution")
    try:
        yield lambda: (exec(code, {"get_ipython": Shell}), asked)[1]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "jaxdlm"]:
            del sys.modules[name]
        sys.modules.update(kept)


def test_the_first_cell_installs_from_where_it_is_told(first_cell, monkeypatch):
    monkeypatch.setenv("JAXDLM", "some.whl")
    assert first_cell() == ["pip uninstall --quiet --yes jaxdlm jaxdlm-decode", 'pip install --quiet "$JAXDLM"']


def test_the_first_cell_never_guesses(first_cell, monkeypatch):
    monkeypatch.delenv("JAXDLM", raising=False)
    with pytest.raises(SystemExit, match="set JAXDLM above to its wheel"):
        first_cell()
