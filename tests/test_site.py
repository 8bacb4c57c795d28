"""The reference: every public name is on a page, and the examples of the pages run. mkdocs itself is not needed."""

import dataclasses
import doctest
import functools
import importlib.util
import inspect
import pathlib
import re
import sys
import types

import pytest

import jaxdlm as jd
from jaxdlm import _decode, _load
from jaxdlm.models import abstract_params

SITE = pathlib.Path(__file__).parents[1] / "docs" / "site"
REFERENCE = SITE.parent / "reference"


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


pages = module("pages")
NAMES = {name.public: name for name in pages.names()}
SHOWN = [name for name in NAMES.values() if inspect.isfunction(name.value) and ">>>" in (name.value.__doc__ or "")]


def shown_on(page: str) -> bool:
    """Whether the file of the page asks for its names."""
    text = (REFERENCE / f"{page}.md").read_text()
    parts = {"methods": "<!-- site: methods -->\n[^!]*<!-- site: helpers -->"}
    return bool(re.search(parts.get(page, f"<!-- site: names {page} -->"), text))


def test_every_public_name_is_on_a_page():
    for name in NAMES.values():
        assert name.page, f"{name.public} ({name.path}) has no page: name its module in PAGES of docs/site/pages.py"
        assert shown_on(name.page), f"docs/reference/{name.page}.md does not show its names, {name.public} among them"


def test_the_walk_misses_nothing_that_a_user_can_call():
    seen = {id(inspect.unwrap(name.value)) for name in NAMES.values()}
    called = {name: getattr(jd, name) for name in jd.__all__}
    missed = [
        name
        for name, value in called.items()
        if callable(value) and not inspect.ismodule(value) and id(inspect.unwrap(value)) not in seen
    ]
    assert not missed
    assert {
        "jaxdlm.decode",
        "jaxdlm.threshold",
        "jaxdlm.rules.sample",
        "jaxdlm.caches.dual",
        "jaxdlm.viz.show",
    } <= NAMES.keys()
    made = {name.path for _, name in pages.methods()}
    assert len(made) == len(jd.policies.RECIPES) == len(pages.methods())
    assert all(name.page == "methods" for _, name in pages.methods())
    assert {pages.path_of(build) for build in jd.policies.CACHES.values()} <= {name.path for name in NAMES.values()}


def test_every_public_name_says_what_it_is():
    for name in NAMES.values():
        assert inspect.getdoc(name.value), f"{name.public} has no docstring"


def test_every_file_of_the_documents_is_in_the_navigation():
    listed = (SITE / "mkdocs.yml").read_text()
    here = [file.relative_to(SITE.parent).as_posix() for file in SITE.parent.rglob("*.md")]
    assert not [file for file in here if f": {file}\n" not in listed]


def test_functions_of_the_top_level_have_an_example():
    wanted = [name for name in pages.of_page("decode") if inspect.isfunction(name.value)] + [NAMES["jaxdlm.chain"]]
    assert not {name.public for name in wanted} - {name.public for name in SHOWN}


@pytest.mark.slow
def test_the_examples_in_docstrings_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jd, "load", functools.cache(jd.load))  # a dozen examples load the same model
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in SHOWN:
        for example in finder.find(name.value, name.public, globs={}):
            assert example.examples
            runner.run(example)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


@functools.cache
def model(name: str):
    if not name.startswith("shape:"):
        return jd.load(name)
    lm = _load.describe(name)
    return dataclasses.replace(lm, params=abstract_params(lm.config))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(jd.policies.RECIPES))
def test_the_example_of_every_method_is_a_decode(method):
    """Up to the first forward: which tokens come is tested of every recipe by tests/conformance."""
    values = {"jd": types.SimpleNamespace(load=model, decode=_decode.prepare, **{method: getattr(jd, method)})}
    exec(pages.example(method), values)
    assert values["out"].parts
