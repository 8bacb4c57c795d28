"""Charts as SVG text: accuracy against a quantity that doubles from tick to tick, and bars."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 520, 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 40
COLOURS = (
    "#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#4b5563", "#ea580c",
    "#0d9488", "#9333ea",
)  # fmt: skip
DASHES = ("", "6 3", "2 2", "8 3 2 3")


class Mark(NamedTuple):
    """A point: x, y in percent, its interval in percent, and what a pointer over it reads."""

    x: float
    y: float
    low: float
    high: float
    title: str


class Series(NamedTuple):
    name: str
    marks: list[Mark]
    star: tuple[float, float] | None = None  # the oracle


class Bar(NamedTuple):
    name: str
    value: float


class Chart(NamedTuple):
    """band: (low, high) in percent of the baseline's margin; dotted: points in (x, percent); line: the baseline."""

    title: str
    x_label: str
    series: list[Series]
    band: tuple[float, float] | None = None
    dotted: list[tuple[float, float]] | None = None
    note: str = ""


def style(index: int) -> tuple[str, str]:
    """(colour, dash) of the index-th series: colours first, then the same colours dashed."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def element(tag: str, text: str = "", **attributes: Any) -> str:
    """`<tag a-b="value">text</tag>`; numbers to a tenth, text is markup already."""
    shown = {
        key.replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else value
        for key, value in attributes.items()
    }
    written = " ".join(f'{key}="{value}"' for key, value in shown.items())
    return f"<{tag} {written}>{text}</{tag}>"


class Scale:
    """Logarithmic x with whole powers of two, linear y."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        exponents = [math.log2(x) for x in xs if x > 0] or [0.0, 1.0]
        self.low, self.high = math.floor(min(exponents) * 2) / 2, math.ceil(max(exponents) * 2) / 2
        self.high = max(self.high, self.low + 1)
        bottom = min(ys, default=0)
        self.bottom = max(0.0, math.floor((bottom - 4) / 10) * 10)
        self.top = 102.0

    def x(self, value: float) -> float:
        share = (math.log2(max(value, 1e-9)) - self.low) / (self.high - self.low)
        return LEFT + min(1.02, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)


def chart(drawn: Chart, order: Sequence[str], *, legend: bool = False) -> str:
    """One panel; `order` fixes the colour of a series by its place, so that panels agree."""
    dots = drawn.dotted or []
    stars = [s.star for s in drawn.series if s.star]
    marks = [m for s in drawn.series for m in s.marks]
    scale = Scale([x for x, *_ in (*marks, *dots, *stars)], [m.y for m in marks] + [y for _, y in dots])
    names = [s.name for s in drawn.series]
    height = HEIGHT + (8 + 18 * -(-len(names) // 3) if legend else 0)
    parts = [
        element("rect", width=WIDTH, height=height, fill="#fff"),
        element("text", html.escape(drawn.title), x=LEFT, y=18, font_size=13, font_weight=600, fill="#111"),
        element("text", html.escape(drawn.note), x=WIDTH - RIGHT, y=18, text_anchor="end", fill="#6b7280"),
        *_axes(scale, drawn.x_label),
    ]
    if drawn.band:
        top, bottom = scale.y(min(scale.top, drawn.band[1])), scale.y(drawn.band[0])
        across, tall = WIDTH - LEFT - RIGHT, max(1.0, bottom - top)
        parts.append(element("rect", x=LEFT, y=top, width=across, height=tall, fill="#9ca3af", fill_opacity="0.28"))
    if dots:
        path = _path(scale, [(2**scale.low, dots[0][1]), *dots])
        line: dict[str, Any] = {
            "stroke": "#111",
            "stroke_width": 1.4,
            "stroke_dasharray": "1.5 4",
            "stroke_linecap": "round",
        }
        parts.append(element("polyline", points=path, fill="none", **line))
    parts += [_series(s, scale, *style(order.index(s.name))) for s in drawn.series]
    parts += _legend(names, order) if legend else []
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = 'font-family="system-ui, sans-serif" font-size="11"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', *parts, "</svg>"])


def _path(scale: Scale, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)


def _axes(scale: Scale, x_label: str) -> list[str]:
    parts, right, floor, grey = [], WIDTH - RIGHT, HEIGHT - BOTTOM, "#374151"
    for value in range(int(scale.bottom), 101, 10 if scale.top - scale.bottom <= 62 else 20):
        y = scale.y(value)
        parts.append(element("line", x1=LEFT, x2=right, y1=y, y2=y, stroke="#e5e7eb"))
        parts.append(element("text", str(value), x=LEFT - 6, y=y + 4, text_anchor="end", fill=grey))
    for exponent in range(math.ceil(scale.low), math.floor(scale.high) + 1):
        x = scale.x(2.0**exponent)
        parts.append(element("line", x1=x, x2=x, y1=TOP, y2=floor, stroke="#f3f4f6"))
        parts.append(element("text", f"{2.0**exponent:g}", x=x, y=floor + 15, text_anchor="middle", fill=grey))
    middle = (TOP + floor) / 2
    turned: dict[str, Any] = {"transform": f"rotate(-90 12 {middle})", "text_anchor": "middle", "fill": grey}
    parts.append(element("line", x1=LEFT, x2=right, y1=floor, y2=floor, stroke="#6b7280"))
    below: dict[str, Any] = {"x": (LEFT + right) / 2, "y": floor + 31, "text_anchor": "middle", "fill": grey}
    parts.append(element("text", html.escape(x_label), **below))
    parts.append(element("text", "accuracy, %", x=12, y=middle, **turned))
    return parts


def _series(series: Series, scale: Scale, colour: str, dash: str) -> str:
    marks = sorted(series.marks)
    path = _path(scale, [(m.x, m.y) for m in marks])
    parts = [element("polyline", points=path, fill="none", stroke_width=1.7, stroke_dasharray=dash)]
    for m in marks:
        x, low, high = scale.x(m.x), scale.y(m.low), scale.y(m.high)
        parts.append(element("line", x1=x, x2=x, y1=low, y2=high, stroke_width=1, stroke_opacity="0.3"))
        title = element("title", html.escape(m.title))
        parts.append(element("circle", title, cx=x, cy=scale.y(m.y), r=2.6, stroke="none"))
    if series.star:
        x, y = scale.x(series.star[0]), scale.y(series.star[1])
        title = element("title", html.escape(f"{series.name}: oracle"))
        parts.append(element("text", "★" + title, x=x, y=y + 4, text_anchor="middle", font_size=13, stroke="none"))
    return element(
        "g", "".join(parts), **{"class": "series"}, data_name=html.escape(series.name), stroke=colour, fill=colour
    )


def _legend(names: Sequence[str], order: Sequence[str]) -> list[str]:
    parts = []
    for place, name in enumerate(names):
        x, y = LEFT + (place % 3) * ((WIDTH - LEFT) / 3), HEIGHT + 8 + 18 * (place // 3)
        colour, dash = style(order.index(name))
        parts.append(element("line", x1=x, x2=x + 22, y1=y, y2=y, stroke=colour, stroke_width=2, stroke_dasharray=dash))
        parts.append(element("text", html.escape(name), x=x + 28, y=y + 4, fill="#111"))
    return parts


WORDS, BAR, GAP = 15, 14, 10  # font size; height of a bar, and between groups: to be read on a phone


def bars(title: str, groups: Mapping[str, Sequence[Bar]], *, base: float, note: str = "") -> str:
    """Horizontal bars from 0, a group per name; a line at `base`, which is what stands for no gain."""
    order = list(dict.fromkeys(bar.name for each in groups.values() for bar in each))
    most = max([base, *(bar.value for each in groups.values() for bar in each)])
    left, right = 16 + 8.2 * max(map(len, groups), default=0), WIDTH - 52
    x = lambda value: left + value / most * (right - left)  # noqa: E731
    parts, labels, y = [], [], 44 + 22 * len(order)
    halo: dict[str, Any] = {"paint_order": "stroke", "stroke": "#fff", "stroke_width": 3}  # the line stays behind words
    for place, name in enumerate(order):
        parts.append(element("rect", x=8, y=38 + 22 * place, width=14, height=BAR, fill=style(place)[0]))
        parts.append(element("text", html.escape(name), x=30, y=50 + 22 * place, fill="#111"))
    top = y
    for name, each in groups.items():
        y += GAP
        middle = y + BAR * len(each) / 2 + 5
        parts.append(element("text", html.escape(name), x=left - 8, y=middle, text_anchor="end", fill="#111"))
        for bar in each:
            colour = style(order.index(bar.name))[0]
            parts.append(element("rect", x=left, y=y, width=x(bar.value) - left, height=BAR - 2, fill=colour))
            at: dict[str, Any] = {"x": x(bar.value) + 5, "y": y + 11, "font_size": 13, "fill": "#374151"}
            labels.append(element("text", f"{bar.value:.2f}", **at, **halo))
            y += BAR
    parts.append(element("line", x1=x(base), x2=x(base), y1=top, y2=y + 4, stroke="#111", stroke_dasharray="3 3"))
    head = [
        element("rect", width=WIDTH, height=y + 12, fill="#fff"),
        element("text", html.escape(title), x=8, y=22, font_weight=600, fill="#111"),
        element("text", html.escape(note), x=WIDTH - 8, y=22, text_anchor="end", fill="#6b7280"),
    ]
    size = f'viewBox="0 0 {WIDTH} {y + 12}" width="{WIDTH}" height="{y + 12}"'
    font = f'font-family="system-ui, sans-serif" font-size="{WORDS}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', *head, *parts, *labels, "</svg>"])
