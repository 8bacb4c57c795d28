"""A method, a cache or a guide is one file: a copy of the package with one more of each has them everywhere."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxdlm import guides, policies, registry
from tests.test_documents import block

ROOT = pathlib.Path(__file__).parents[1]
# what a user sees, what the public name gives, and what the suites of conformance go through
ASK = """
import json
import jaxdlm as jd
from jaxdlm import cli
from tests.conformance import toys
made = jd.until_eos(0.8) == jd.policies.read("until_eos,tau=0.8")
kept = jd.caches.half_dual() == jd.policies.read_cache("half_dual")
lm = jd.load("tiny-ar")
out = jd.decode(lm, ["reverse : [ Alan ]"], jd.autoregressive(guide=jd.guides.at_least(7, lm)), max_new=8)
guided = [dir(jd.guides), int(out.forwards[0])]
print(json.dumps([cli.policy_rows(), made, kept, guided, toys.RULES, toys.CROSS, dir(jd), list(jd.policies.RECIPES)]))
"""


def linked(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A folder with a link to everything in another one."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    return target


def test_the_skeletons_of_the_contributing_page_are_found_by_their_files(tmp_path):
    package = linked(ROOT / "jaxdlm", tmp_path / "jaxdlm")
    for folder, file, name in (
        ("methods", "until_eos", "method"), ("caches", "half_dual", "cache"), ("guides", "at_least", "guide"),
    ):  # fmt: skip
        (package / folder).unlink()
        (linked(ROOT / "jaxdlm" / folder, package / folder) / f"{file}.py").write_text(block("CONTRIBUTING.md", name))
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, made, kept, guided, rules, cross, names, recipes = json.loads(done.stdout)
    assert made and kept
    assert guided[0] == sorted([*guides.GUIDES, "at_least"]) and guided[1] >= 7
    assert [row["method"] for row in rows] == recipes == [*policies.RECIPES, "until_eos"], (
        "known ones keep their places"
    )
    assert rows[-1]["commits"] == "all with probability >= tau, up to the end of the text"
    assert "half_dual" in rows[recipes.index("freedave")]["caches"] and rows[-1]["caches"] == "all"
    assert "half_dual" not in rows[recipes.index("prophet")]["caches"]
    assert "until_eos" in rules and "until_eos" in names
    assert {("until_eos", "half_dual"), ("until_eos", "dual"), ("threshold", "half_dual")} <= {
        tuple(pair) for pair in cross
    }


def test_every_file_of_a_method_registers_it_with_all_that_the_tables_show():
    assert set(registry.files(registry.METHODS)) == set(registry.methods())
    for entry in registry.methods().values():
        assert entry.build.__module__ == f"{registry.METHODS}.{entry.name}"
        assert entry.idea and entry.use and entry.avoid and entry.paper[0].isdigit(), entry.name
        assert entry.needs in ("block", "canvas", "versions", "noise", "")
    places = [entry.order for entry in registry.methods().values()]
    assert len(set(places)) == len(places)


def test_a_method_in_a_file_of_another_name_is_refused():
    def other() -> None: ...

    other.__module__ = f"{registry.METHODS}.one"
    with pytest.raises(TypeError, match=r"methods/one\.py registers other"):
        registry.method(paper="1", idea="i", use="u", avoid="a")(other)
