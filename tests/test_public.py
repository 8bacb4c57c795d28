"""What `import jaxdlm` offers: methods by name as whole policies, parts in `rules`, and where moved names have gone."""

import inspect
import pathlib
import pkgutil
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import caches, drafters, guides, rules
from jaxdlm.speculative.policy import Speculation, Unloaded

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", jd.policies.RECIPES)
def test_a_method_is_a_whole_policy(name):
    """The one that its words stand for, which `decode` accepts."""
    made, read = getattr(jd, name)(), jd.policies.read(name)
    if isinstance(made, Unloaded):
        assert isinstance(read, Unloaded) and made.name == read.name
    else:
        assert jax.tree.structure(made) == jax.tree.structure(read)
        assert jax.tree.all(jax.tree.map(np.array_equal, made, read))
        assert isinstance(made, jd.Rule | Speculation)
    assert jd.threshold(0.8) == jd.policies.read("threshold,tau=0.8")


def test_every_public_name_is_there_once():
    assert sorted(set(dir(jd))) == sorted(dir(jd))
    assert set(jd.policies.RECIPES) < set(jd.__all__) == set(dir(jd)) - {"__version__"}
    for name in jd.__all__:
        assert getattr(jd, name) is not None
    for place in (caches, guides, rules, drafters):
        assert len(set(dir(place))) == len(dir(place)) > 2
        assert all(callable(getattr(place, name)) for name in dir(place))
    assert dir(caches) == sorted(jd.policies.CACHES)
    assert dir(guides) == sorted(guides.GUIDES)
    assert all(getattr(caches, name) is build for name, build in jd.policies.CACHES.items())


def test_no_module_hides_a_public_name():
    modules = {module.name for module in pkgutil.iter_modules([str(ROOT / "jaxdlm")])}
    packages = {
        "caches",
        "grammar",
        "guides",
        "methods",
        "policies",
        "rewards",
        "rules",
        "speculative",
        "steppers",
        "streams",
        "viz",
    }
    assert modules & set(jd.__all__) == packages
    assert not set(jd._METHODS) & set(dir(rules)), "a part has the name of a method"


def test_speculative_is_a_package_and_a_method():
    import jaxdlm.speculative as package

    assert jd.speculative is package
    assert jd.speculative("tiny-draft", k=2).name == jd.speculative.speculative("tiny-draft", k=2).name == "tiny-draft"
    assert inspect.signature(jd.speculative) == inspect.signature(package.speculative)
    assert all(getattr(package, name) is not None for name in dir(package))


def test_names_that_moved_say_where_they_are():
    with pytest.raises(
        jd.InputError, match=r"jaxdlm\.sample is now jaxdlm\.rules\.sample; .*jd\.rules\.select_above\(0\.9\)"
    ):
        jd.chain(jd.sample(), jd.threshold(0.9))
    with pytest.raises(jd.InputError, match=r"the chain has sample twice: .*jd\.threshold\(0\.9\) is a whole policy"):
        jd.chain(jd.rules.sample(), jd.threshold(0.9))
    assert jd.chain(jd.rules.sample(), jd.rules.select_above(0.9)) == jd.threshold(0.9)
    assert not hasattr(jd, "sample") and not hasattr(jd, "nothing_of_the_kind")
    for old, new in jd._MOVED.items():
        place, name = new.split(".")
        assert callable(getattr(getattr(jd, place), name)), old
        assert old not in dir(jd)
    with pytest.raises(AttributeError, match="no cache 'prefiks': use one of none, prefix"):
        jd.caches.prefiks()
    with pytest.raises(AttributeError, match="no guide 'band': use one of banned, frequency, grammar"):
        jd.guides.band()


def test_names_are_listed_without_jax():
    code = "import sys, jaxdlm; dir(jaxdlm); print(hasattr(jaxdlm, 'sample'), 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_types_go_along():
    """The wheel holds the package as a folder, and in it the marker that says its annotations are meant."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "jaxdlm" in built["packages"] and not {"exclude", "only-include"} & set(built)
    assert (ROOT / "jaxdlm" / "py.typed").is_file()
