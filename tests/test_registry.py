"""A method, cache, guide, drafter, family or task is one file: a copy of the package with one more of each has them all."""

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
import json, sys
import jaxdlm as jd
from jaxdlm import cli, registry
from jaxdlm.models.registry import read_config
from jaxdlm.speculative import verify
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from tests.conformance import test_drafters, test_families, test_guides, toys
from tests.eval import test_task
from tests.models import test_table
sys.path.insert(0, "docs/site")
import pages
made = jd.until_eos(0.8) == jd.policies.read("until_eos,tau=0.8")
same = jd.caches.half_dual() == jd.policies.read_cache("half_dual")
lm = jd.load("tiny-ar")
sampling = warp(guide=jd.guides.at_least(7, lm))
policy = Speculation(jd.drafters.Again(3), sampling, verify.greedy)
out = jd.decode(lm, ["reverse : [ Alan ]"], policy, max_new=8)
of_guides = test_guides.test_a_draft_changes_no_token_and_rows_stay_apart.pytestmark[0].args[1]
guided = [dir(jd.guides), int((out.commit_step >= 0).sum()), int(out.drafted[0]), "at_least" in of_guides]
drafters = [dir(jd.drafters), [*test_drafters.test_greedy_tokens_are_those_of_plain_decoding.pytestmark[0].args[1]]]
site = {name.public: name.page for name in pages.names()}
recipes = list(jd.policies.RECIPES)
meets = test_families.chosen("veil", "threshold"), test_families.meets("threshold", "block_exact", "veil")
test_table.test_the_inverse_of_every_family_is_bit_identical("veil")
config = read_config({"architectures": ["VeilForDiffusion"], "veil_length": 4})
family = [config.family, config.block_size, *meets, "veil-1b" in pages.shapes()]
try:
    read_config({"architectures": ["VeilForDiffusion"], "veil_length": "x"})
except jd.InputError as error:
    family.append(str(error))
test_task.test_answers_pass_their_own_check_and_round_trip("last")
tasks = ["last" in test_task.TASKS, "| `last` | 4 | 90% | no |" in pages.tasks()]
rows, names = cli.policy_rows(), dir(jd)
print(json.dumps([rows, made, same, guided, toys.RULES, toys.CROSS, names, recipes, drafters, site, family, tasks]))
"""


def linked(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A folder with a link to everything in another one."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    return target


def own_folder(package: pathlib.Path, folder: str) -> pathlib.Path:
    """A folder of the package to which a file may be added, no link."""
    for path in [*reversed(pathlib.PurePath(folder).parents), pathlib.PurePath(folder)]:
        if (package / path).is_symlink():
            (package / path).unlink()
            linked(ROOT / "jaxdlm" / path, package / path)
    return package / folder


@pytest.mark.slow
def test_the_skeletons_of_the_contributing_page_are_found_by_their_files(tmp_path):
    package = linked(ROOT / "jaxdlm", tmp_path / "jaxdlm")
    for folder, file, name in (
        ("methods", "until_eos", "method"), ("caches", "half_dual", "cache"), ("guides", "at_least", "guide"),
        ("speculative/drafters", "again", "drafter"), ("models/families", "veil", "family"), ("eval/tasks", "last", "task"),
    ):  # fmt: skip
        (own_folder(package, folder) / f"{file}.py").write_text(block("CONTRIBUTING.md", name))
    for folder in ("tests", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, made, same, guided, rules, cross, names, recipes, drafted, site, family, tasks = json.loads(done.stdout)
    assert made and same
    assert guided[0] == sorted([*guides.GUIDES, "at_least"]) and guided[1] >= 7 and guided[2] > 0 and guided[3]
    assert [row["method"] for row in rows] == recipes == [*policies.RECIPES, "until_eos"], (
        "known ones keep their places"
    )
    assert rows[-1]["commits"] == "all with probability >= tau, up to the end of the text"
    assert "half_dual" in rows[recipes.index("freedave")]["caches"] and rows[-1]["caches"] == "all"
    assert "half_dual" not in rows[recipes.index("prophet")]["caches"]
    assert "until_eos" in rules and "until_eos" in names
    assert (
        family[:2] == ["veil", 4]
        and family[2]
        and family[3:5] == [True, True]
        and family[5].startswith("config.json: veil_length='x': must be a whole")
    )
    assert tasks == [True, True]
    for listed in drafted:
        assert sorted(listed) == sorted([*registry.drafters(), "Again"])
    pages = {
        "until_eos": "methods",
        "caches.half_dual": "caches",
        "guides.at_least": "guides",
        "drafters.Again": "drafters",
    }
    assert {name: site[f"jaxdlm.{name}"] for name in pages} == pages
    assert {("until_eos", "half_dual"), ("until_eos", "dual"), ("threshold", "half_dual")} <= {
        tuple(pair) for pair in cross
    }


def test_every_file_of_a_method_registers_it_with_all_that_the_tables_show():
    assert set(registry.files(registry.METHODS)) == set(registry.methods())
    for entry in registry.methods().values():
        assert entry.build.__module__ == f"{registry.METHODS}.{entry.name}"
        assert entry.idea and entry.use and entry.avoid and entry.paper[0].isdigit(), entry.name
        assert not entry.needs or entry.caches, f"no cache serves what {entry.name} needs"


def test_tables_are_in_the_order_of_the_places_that_files_state_and_then_of_names():
    """Two files that state the same place need not know of each other."""
    for table in (
        registry.methods,
        registry.caches,
        registry.drafters,
        registry.guides,
        registry.families,
        registry.tasks,
    ):
        places = [(entry.order, entry.name) for entry in table().values()]
        assert places == sorted(places) and len(set(places)) == len(places)


def test_a_method_in_a_file_of_another_name_is_refused():
    def other() -> None: ...

    other.__module__ = f"{registry.METHODS}.one"
    with pytest.raises(TypeError, match=r"methods/one\.py registers other"):
        registry.method(paper="1", idea="i", use="u", avoid="a")(other)
