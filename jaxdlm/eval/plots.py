"""Charts as Vega-Lite specifications: accuracy against a cost that doubles from tick to tick, and bars.

A specification is plain data. A page draws it in the browser with a copy of the library that stands in the page, and
`svg` makes a picture of it; both come from the package `vl-convert-python` (extra `plot`).
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdlm import distribution
from jaxdlm.errors import InputError
from jaxdlm.eval.run import BASELINE
from jaxdlm.eval.summary import MARGINS, TASK_MARGIN

Summary = Mapping[str, Any]
Spec = dict[str, Any]
INK, QUIET, OWN, BEST = "#374151", "#9ca3af", "#2563eb", "#111827"
CONFIG: Spec = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "gridColor": "#eceef1",
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "domain": False,
    },
    "title": {"anchor": "start", "fontSize": 13, "color": BEST, "subtitleColor": "#6b7280"},
}
READ: list[Spec] = [  # what a pointer over a point reads
    {"field": "setting", "type": "nominal"},
    *({"field": field, "type": "quantitative", "title": title, "format": digits} for field, title, digits in (
        ("accuracy", "accuracy, %", ".1f"), ("low", "interval from", ".1f"), ("high", "to", ".1f"),
        ("tpf", "tokens per forward", ".2f"), ("saved", "forwards saved, times", ".2f"), ("delta", "Δ, points", "+.2f"),
    )),
]  # fmt: skip


def there() -> bool:
    """Whether charts can be drawn here."""
    return importlib.util.find_spec("vl_convert") is not None


def _library() -> Any:
    if not there():
        raise InputError(f"charts need the package vl-convert-python: {distribution.install('plot')}")
    import vl_convert

    return vl_convert


def svg(spec: Spec) -> str:
    """The picture. Raises InputError where the package that draws it is missing."""
    made: str = _library().vegalite_to_svg(json.dumps(_still(spec)))
    return made


def _still(spec: Spec) -> Spec:
    """As a picture: nothing to point at, and a width of its own."""
    layers = [layer for layer in spec.get("layer", []) if not layer.get("name", "").startswith("pointed")]
    without = [{key: value for key, value in layer.items() if key != "params"} for layer in layers]
    wide = {"width": 460} if spec.get("width") == "container" else {}
    return {**spec, **({"layer": without} if "layer" in spec else {}), **wide, "background": "white", "padding": 8}


def library() -> str:
    """The script that `embed` needs, once per page; nothing is loaded from elsewhere."""
    made: str = _library().javascript_bundle().replace("</script", "<\\/script")
    return f"<script>{made}</script>"


def embed(name: str, spec: Spec) -> str:
    """The chart as an element of a page."""
    data = json.dumps(spec, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    return f'<div class=chart id="{name}"></div><script>vegaEmbed("#{name}", {data}, {{"actions": false}})</script>'


def front(points: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The Pareto front, cheapest first: points that no other beats in cost and accuracy at once."""
    best, reached = [], float("-inf")
    for p in sorted(points, key=lambda p: (-p["x"], -p["accuracy"])):
        if p["accuracy"] > reached:
            best.append(p)
            reached = p["accuracy"]
    return best[::-1]


def points(summary: Summary, task: str, x: str) -> list[dict[str, Any]]:
    """What charts of a task are made of: its settings without a cache, x a key of the summary's points."""
    return [
        {
            "policy": p["policy"], "setting": p["label"], "x": p[x], "accuracy": 100 * p["accuracy"],
            "low": 100 * p["interval"][0], "high": 100 * p["interval"][1], "tpf": p["tpf"],
            "saved": p.get("speedup_forwards"), "delta": None if "delta" not in p else 100 * p["delta"],
        }
        for p in summary["points"] if p["task"] == task and p["cache"] == "none" and x in p
    ]  # fmt: skip


def overview(summary: Summary, task: str, x: str, x_title: str, *, choice: bool = True, **size: Any) -> Spec:
    """All settings of a task in grey, the Pareto front of all in black with the names of its methods.

    The method that a pointer touches, or that is chosen from a list below, comes forward with its own front and its
    intervals. Size: width and height as Vega-Lite takes them.
    """
    every = points(summary, task, x)
    names = sorted({p["policy"] for p in every})
    best = front(every)
    along = _along(best, 20, 1.6)
    labels = list({p["policy"]: p for p in best}.values())  # a name stands at the method's last point
    chosen = [{"filter": {"param": "method", "empty": False}}]
    own = [p["setting"] for name in names for p in front(q for q in every if q["policy"] == name)]
    data = [p | {"own": p["setting"] in own} for p in every]
    method = {"name": "method", "select": {"type": "point", "fields": ["policy"], "on": "pointerover"}}
    listed = {"input": "select", "options": [None, *names], "labels": ["none", *names], "name": "Bring forward "}
    layers = [
        *_ground(summary, task, x, along),
        _layer(None, "point", along, filled=True, size=34, color=QUIET, opacity=0.55, tooltip=True)
        | {"params": [{**method, **({"bind": listed} if choice else {})}]},
        _layer(best, "line", along, interpolate="step-before", color=BEST, strokeWidth=1.6),
        _layer(best, "point", along, filled=True, size=46, color=BEST),
        _layer(labels, "text", along | {"text": {"field": "policy"}}, align="left", dx=7, dy=-7, fontSize=11, color=BEST,
               angle=330),
        _layer(None, "rule", _interval(along), name="pointed intervals", color=OWN, opacity=0.5) | {"transform": chosen},
        _layer(None, "line", along, name="pointed line", interpolate="step-before", color=OWN)
        | {"transform": [*chosen, {"filter": "datum.own"}]},
        _layer(None, "point", along, name="pointed points", filled=True, size=60, color=OWN) | {"transform": chosen},
    ]  # fmt: skip
    below = sum(p["accuracy"] < along["y"]["scale"]["domain"][0] for p in every)
    note = _count(summary, task) + (f"; {below} settings lie below" if below else "")
    return _chart(
        task, note, layers, x_title, datasets={"settings": data}, **{"width": "container", "height": 380, **size}
    )


def of_method(summary: Summary, task: str, x: str, x_title: str, name: str, *, side: int = 250) -> Spec:
    """One method's settings with their intervals, its own Pareto front, that of all methods in grey, and its oracle."""
    every = points(summary, task, x)
    own = [p for p in every if p["policy"] == name]
    along = _along([*own, *front(every)], 4)
    curves: Sequence[Mapping[str, Any]] = summary["curves"]
    curve: Mapping[str, Any] = next(
        (c for c in curves if (c["policy"], c["cache"], c["task"]) == (name, "none", task)), {}
    )
    star = curve.get("oracle") if x == "tpf" and len(own) > 1 else None
    layers = [
        *_ground(summary, task, x, along),
        _layer(front(every), "line", along, interpolate="step-before", color=QUIET, strokeWidth=1.2),
        _layer(own, "rule", _interval(along), color=OWN, opacity=0.35),
        _layer(front(own), "line", along, interpolate="step-before", color=OWN, strokeWidth=1.4),
        _layer(own, "point", along, filled=True, size=32, color=OWN, tooltip=True),
    ]
    if star:
        mark = [{"x": star["tpf"], "accuracy": 100 * star["accuracy"]}]
        layers.append(_layer(mark, "text", along, text="★", fontSize=14, color=OWN))
    note = f"AUP {curve['aup']:.0f}" if "aup" in curve else ""
    return _chart(name, note, layers, x_title, width=side, height=round(side * 0.72))


def bars(title: str, groups: Mapping[str, Mapping[str, float]], *, base: float, note: str = "") -> Spec:
    """Horizontal bars from 0 with their values, a group per name; a line at `base`, which stands for no gain."""
    order = list(dict.fromkeys(name for each in groups.values() for name in each))
    rows = [
        {"group": group, "name": name, "value": value} for group, each in groups.items() for name, value in each.items()
    ]
    place: Spec = {
        "y": {"field": "group", "type": "nominal", "sort": list(groups), "title": None,
              "axis": {"labelFontSize": 13, "labelLimit": 260, "ticks": False}},
        "yOffset": {"field": "name", "sort": order},
        "x": {"field": "value", "type": "quantitative", "title": None, "scale": {"domainMin": 0}},
    }  # fmt: skip
    colour: Spec = {
        "field": "name", "type": "nominal", "sort": order, "title": None,
        "legend": {"orient": "top", "columns": 2, "labelLimit": 420},
        "scale": {"domain": order, "scheme": "tableau10" if len(order) <= 10 else "tableau20"},
    }  # fmt: skip
    read = [{"field": "name", "type": "nominal"}, {"field": "value", "type": "quantitative", "format": ".2f"}]
    layers: list[Spec] = [
        {"data": {"values": rows}, "mark": "bar", "encoding": {**place, "color": colour, "tooltip": read}},
        {"data": {"values": [{"value": base}]}, "mark": {"type": "rule", "strokeDash": [3, 3], "color": BEST},
         "encoding": {"x": place["x"]}},
        {"data": {"values": rows}, "mark": {"type": "text", "align": "left", "dx": 4, "fontSize": 12, "color": INK},
         "encoding": {**place, "text": {"field": "value", "type": "quantitative", "format": ".2f"}}},
    ]  # fmt: skip
    head = {"text": title, **({"subtitle": note} if note else {})}
    return {"title": head, "config": CONFIG, "width": "container", "height": {"step": 15}, "layer": layers}


def reliability(title: str, bins: Iterable[Any], *, side: int = 300) -> Spec:
    """Accuracy against the probability that was stated, with intervals; what is calibrated lies on the diagonal. bins: of
    `jaxdlm.decisions.metrics.reliability`."""
    rows = [each._asdict() for each in bins]
    scale: Spec = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    x, y = {**scale, "field": "p", "title": "stated"}, {**scale, "field": "accuracy", "title": "right"}
    ends = [{"p": 0, "accuracy": 0}, {"p": 1, "accuracy": 1}]
    layers: list[Spec] = [
        {"data": {"values": ends}, "mark": {"type": "line", "strokeDash": [3, 3], "color": QUIET}, "encoding": {"x": x, "y": y}},
        {"data": {"values": rows}, "mark": {"type": "rule", "color": OWN, "opacity": 0.5},
         "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
        {"data": {"values": rows}, "mark": {"type": "point", "filled": True, "color": OWN, "tooltip": True},
         "encoding": {"x": x, "y": y, "size": {"field": "n", "type": "quantitative", "legend": None}}},
    ]  # fmt: skip
    return {"title": {"text": title}, "config": CONFIG, "width": side, "height": side, "layer": layers}


def side_by_side(specs: Sequence[Spec]) -> Spec:
    """Charts as one."""
    return {
        "config": CONFIG,
        "hconcat": [{key: value for key, value in spec.items() if key != "config"} for spec in specs],
    }


def _ground(summary: Summary, task: str, x: str, along: Spec) -> list[Spec]:
    """The band of the baseline's margin, and the dotted line of an ideal model."""
    base = next(
        (p for p in summary["points"] if p["task"] == task and p["policy"] == BASELINE and not p["settings"]), None
    )
    made: list[Spec] = []
    if base is not None:
        margin = MARGINS.get(task, TASK_MARGIN)
        band = [{"from": 100 * (base["accuracy"] - margin), "to": min(100, 100 * (base["accuracy"] + margin))}]
        ends = {"y": {**along["y"], "field": "from"}, "y2": {"field": "to"}}
        made.append(
            {"data": {"values": band}, "mark": {"type": "rect", "color": QUIET, "opacity": 0.25}, "encoding": ends}
        )
    bound = summary.get("bounds", {}).get(task)
    if bound is not None and x == "tpf":
        dots = [{"x": at, "accuracy": 100 * y} for at, y in bound["points"]]
        dots = [{"x": min(p["x"] for p in points(summary, task, x)), "accuracy": dots[0]["accuracy"]}, *dots]
        made.append(_layer(dots, "line", along, strokeDash=[2, 4], color=BEST, strokeWidth=1.2))
    return made


def _along(every: Sequence[Mapping[str, Any]], below: float, beyond: float = 1.0) -> Spec:
    """Places: powers of two across, with room for names; percent upwards from a multiple of ten below the lowest."""
    lowest = min([p["accuracy"] for p in every], default=0.0)
    most = max([p["x"] for p in every], default=1.0)
    return {
        "x": {"field": "x", "type": "quantitative", "axis": {"format": "~g", "tickCount": 6},
              "scale": {"type": "log", "base": 2, "nice": False, "domainMax": beyond * most}},
        "y": {"field": "accuracy", "type": "quantitative", "title": "accuracy, %",
              "scale": {"domain": [max(0, 10 * ((lowest - below) // 10)), 101], "nice": False}},
    }  # fmt: skip


def _interval(along: Spec) -> Spec:
    return {"x": along["x"], "y": {**along["y"], "field": "low"}, "y2": {"field": "high"}}


def _layer(
    values: Sequence[Mapping[str, Any]] | None, kind: str, places: Spec, *, tooltip: bool = False, name: str = "", **mark: Any
) -> Spec:  # fmt: skip
    """Values, or the data set of all settings."""
    read = {"tooltip": READ} if tooltip else {}
    data = {"name": "settings"} if values is None else {"values": list(values)}
    made: Spec = {"data": data, "mark": {"type": kind, "clip": kind != "text", **mark}, "encoding": {**places, **read}}
    return {"name": name, **made} if name else made


def _chart(title: str, note: str, layers: list[Spec], x_title: str, **size: Any) -> Spec:
    for layer in layers:
        if "x" in layer["encoding"]:
            layer["encoding"]["x"] = {**layer["encoding"]["x"], "title": x_title}
    return {"title": {"text": title, "subtitle": note}, "config": CONFIG, "layer": layers, **size}


def _count(summary: Summary, task: str) -> str:
    gate = summary["gates"].get(task)
    if gate is not None and not gate["learned"]:
        return f"not learned (gate {100 * gate['gate']:.0f})"
    return f"n = {max((p['n'] for p in summary['points'] if p['task'] == task), default=0)}"
