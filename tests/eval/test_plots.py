"""Charts: the Pareto front, what is drawn of it, and a page without the package that draws."""

import importlib.util
import json

import numpy as np
import pytest

from jaxdlm.errors import InputError
from jaxdlm.eval import plots, report, summary
from tests.eval.rows import made


@pytest.fixture(scope="module")
def found():
    return summary.summarise({"model": "m", "split": "test", "dtype": "float32", "device": "cpu"}, made())


def beats(p, q):
    return p != q and p[0] >= q[0] and p[1] >= q[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_beats(seed):
    numbers = np.random.default_rng(seed).integers(0, 6, (20, 2)).tolist()
    points = [{"x": x, "accuracy": y} for x, y in numbers]
    places = {(x, y) for x, y in numbers}
    slow = sorted(place for place in places if not any(beats(other, place) for other in places))
    assert [(p["x"], p["accuracy"]) for p in plots.front(points)] == slow


def test_a_chart_holds_every_setting_and_names_those_in_front(found):
    chart = plots.overview(found, summary.POOLED, "tpf", "tokens per forward")
    settings = chart["datasets"]["settings"]
    assert {p["setting"] for p in settings} == {p["label"] for p in found["points"] if p["cache"] == "none"}
    names = next(layer["data"]["values"] for layer in chart["layer"] if layer["mark"]["type"] == "text")
    assert {p["policy"] for p in names} == {p["policy"] for p in plots.front(settings)}
    picture = plots.svg(chart)
    assert picture.startswith("<svg") and all(p["policy"] in picture for p in names)


def test_a_closing_tag_in_a_name_stays_data():
    page = plots.embed("a", {"title": "</script><script>alert(1)"})
    assert page.count("</script>") == 1 and json.loads(page.split('", ', 1)[1].rsplit(", {", 1)[0])["title"].startswith(
        "</"
    )


def test_without_the_package_the_report_has_its_tables(found, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="vl-convert-python"):
        plots.svg({})
    found = {
        **found,
        "meta": {**found["meta"], "version": "0", "git": "", "time": "", "seed": 0, "cores": 1, "jax": "", "argv": []},
    }
    page = report.page(found)
    assert "vl-convert-python" in page and "<script" not in page and "tau=0.9" in page
