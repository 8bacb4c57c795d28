"""The code in the documents runs, and the tables in them are current."""

import pathlib
import re
import types

import pytest

import jaxdlm as jd
from jaxdlm import cli

ROOT = pathlib.Path(__file__).parents[1]


def block(document: str, name: str) -> str:
    """The code block of a document under `<!-- test: name -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert found, f"{document} has no block {name!r}"
    return found.group(1)


@pytest.fixture(scope="module")
def lm():
    return jd.load("tiny")


@pytest.mark.slow
def test_the_rule_of_the_contributing_page_decodes(lm):
    module = types.ModuleType("page")
    exec(block("CONTRIBUTING.md", "rule"), module.__dict__)
    module.__dict__.update(lm=lm, prompts=list(lm.tokenizer.examples[:2]))
    exec(block("CONTRIBUTING.md", "use"), module.__dict__)
    out = module.out
    slow = jd.decode(lm, module.prompts, policy="low_confidence", max_new=64)
    assert (out.forwards <= slow.forwards).all()
    assert len(out.text) == 2


@pytest.mark.slow
def test_the_notebook_of_the_readme_runs(lm, capsys):
    exec(block("README.md", "notebook"), {})
    assert "forwards" in capsys.readouterr().out


def test_the_readme_lists_every_method_once():
    text = (ROOT / "README.md").read_text()
    table = re.search(r"<!-- methods -->\n(.*?)\n<!-- end methods -->", text, re.DOTALL)
    names = re.findall(r"`(\w+)`", table.group(1)) if table else []
    assert sorted(names) == sorted(row["method"] for row in cli.policy_rows())
    assert len(text.split()) <= 900, "the README is a first page: longer things go to docs"


def test_the_method_table_is_current():
    text = (ROOT / "docs/policies.md").read_text()
    assert cli.markdown(cli.policy_rows()) in text, "run: python scripts/gallery.py DIR"
