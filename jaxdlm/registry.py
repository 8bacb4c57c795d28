"""Methods, caches, drafters, guides, families, tasks, suites by name: each registers itself in its file; tables are derived."""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

METHODS, CACHES, DRAFTERS = "jaxdlm.methods", "jaxdlm.caches", "jaxdlm.speculative.drafters"
GUIDES, FAMILIES, TASKS = "jaxdlm.guides", "jaxdlm.models.families", "jaxdlm.eval.tasks"
SUITES = "jaxdlm.eval.suites"
LAST = 10**6  # place in the tables of what names none
Made = TypeVar("Made", bound=Callable[..., Any])
Kind = TypeVar("Kind", bound=type[Any])


class Entry(Protocol):
    """What every table needs of its entries: a name, and the place, by which and by the name they are sorted."""

    @property
    def name(self) -> str: ...

    @property
    def order(self) -> int: ...


Record = TypeVar("Record", bound=Entry)


class Method(NamedTuple):
    """A row of `jaxdlm policies`, and what else is known of a method; `method` says what each field means."""

    name: str
    build: Callable[..., Any]
    paper: str
    idea: str
    use: str
    avoid: str
    trained: bool
    lossless: str
    needs: str
    scheduled: bool
    order: int

    @property
    def caches(self) -> tuple[str, ...]:
        """Names of the caches that it works with."""
        return tuple(cache.name for cache in caches().values() if self.needs in cache.serves)


class Cache(NamedTuple):
    """A cache; `cache` says what each field means."""

    name: str
    build: Callable[..., Any]
    serves: tuple[str, ...]
    order: int


class Part(NamedTuple):
    """A drafter or a guide; `drafter` and `guide` say what each field means."""

    name: str
    build: Callable[..., Any]
    example: Callable[..., Any]
    order: int


_methods: dict[str, Method] = {}
_caches: dict[str, Cache] = {}
_drafters: dict[str, Part] = {}
_guides: dict[str, Part] = {}
_families: dict[str, Any] = {}  # records of packages that lie above
_tasks: dict[str, Any] = {}
_suites: dict[str, Any] = {}


def method(
    *, paper: str, idea: str, use: str, avoid: str, trained: bool = False, lossless: str = "no",
    needs: str = "block", scheduled: bool = False, order: int = LAST,
) -> Callable[[Made], Made]:  # fmt: skip
    """Registers a function as the method of its name; its file, `jaxdlm/methods/<name>.py`, has that name too.

    paper: arXiv number. idea: what it commits, in one line. use, avoid: when to use it and when not. trained: needs
    weights that were trained for it. lossless: "yes", "no", or under which condition. needs: which caches serve it:
    "block" (sees one block), "canvas" (sees all columns), "versions" (sends several versions of a row), "noise" (uniform
    noise), "blind" (asks what a column is without its own token), "attention" (asks what columns attend to), "length"
    (changes the length of the canvas), "" (left to right: always cached). scheduled: spreads its commits evenly over
    `steps` forwards. order: its place in the tables.
    """

    def register(build: Made) -> Made:
        name, file = build.__name__, build.__module__.rpartition(".")[2]
        if build.__module__.startswith(f"{METHODS}.") and name != file:
            raise TypeError(f"jaxdlm/methods/{file}.py registers {name}: name the file after its method")
        _methods[name] = Method(name, build, paper, idea, use, avoid, trained, lossless, needs, scheduled, order)
        return build

    return register


def cache(name: str, *, serves: tuple[str, ...], order: int = LAST) -> Callable[[Made], Made]:
    """Registers what builds a cache. serves: which methods it works with, see `needs` of `method`."""

    def register(build: Made) -> Made:
        _caches[name] = Cache(name, build, serves, order)
        return build

    return register


def drafter(example: Callable[..., Any], *, order: int = LAST) -> Callable[[Kind], Kind]:
    """Registers a class of drafters under its name, which `jaxdlm.drafters` has.

    example: `(target, draft, sampling) -> drafter`, a small one for two loaded models and a `Warp`, its trained parts
    untrained: tests/conformance/test_drafters.py decodes with it, and requires the target's own tokens.
    """

    def register(build: Kind) -> Kind:
        _drafters[build.__name__] = Part(build.__name__, build, example, order)
        return build

    return register


def guide(example: Callable[..., Any], *, order: int = LAST) -> Callable[[Made], Made]:
    """Registers what builds a guide under its name, which `jaxdlm.guides` has.

    example: `(lm) -> guide`, one that changes what a random model writes: tests/conformance/test_guides.py decodes with it.
    """

    def register(build: Made) -> Made:
        _guides[build.__name__] = Part(build.__name__, build, example, order)
        return build

    return register


def family(record: Record) -> Record:
    """The record of a model family, a `models.table.Family`, once it is registered; in `jaxdlm/models/families/<name>.py`."""
    _families[record.name] = record
    return record


def task(record: Record) -> Record:
    """The record of a task of the benchmark, a `eval.tasks._base.Family`, once it is registered; in `jaxdlm/eval/tasks`."""
    _tasks[record.name] = record
    return record


def suite(record: Record) -> Record:
    """The record of a published benchmark, a `eval.suite.Suite`, once it is registered; in `jaxdlm/eval/suites/<name>.py`."""
    _suites[record.name] = record
    return record


@functools.cache
def files(package: str) -> tuple[str, ...]:
    """Names of the modules of a package, helpers (_name) left out; imports none of them."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return tuple(sorted(module.name for module in modules if module.name[0] != "_"))


def method_of(name: str) -> Method:
    """The method of a file, without a look at the others."""
    importlib.import_module(f"{METHODS}.{name}")
    return _methods[name]


@functools.cache
def methods() -> dict[str, Method]:
    """All methods by name, in the order of the tables."""
    return _read(METHODS, _methods)


@functools.cache
def caches() -> dict[str, Cache]:
    """All caches by name, in the order of the tables."""
    return _read(CACHES, _caches)


@functools.cache
def drafters() -> dict[str, Part]:
    """All drafters by the names of their classes, in alphabetical order where none is stated."""
    return _read(DRAFTERS, _drafters)


@functools.cache
def guides() -> dict[str, Part]:
    """All guides by name."""
    return _read(GUIDES, _guides)


@functools.cache
def families() -> dict[str, Any]:
    """All model families by name."""
    return _read(FAMILIES, _families)


@functools.cache
def tasks() -> dict[str, Any]:
    """All tasks by name, in the order of the tables."""
    return _read(TASKS, _tasks)


@functools.cache
def suites() -> dict[str, Any]:
    """All suites by name, in the order of the tables."""
    return _read(SUITES, _suites)


def _read(package: str, registered: dict[str, Any]) -> dict[str, Any]:
    for file in files(package):
        importlib.import_module(f"{package}.{file}")
    return {each.name: each for each in sorted(registered.values(), key=lambda each: (each.order, each.name))}
