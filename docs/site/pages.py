"""What is public, and the page of the site on which it stands. Needs no mkdocs: `tests/test_site.py` reads it too."""

import inspect
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import jaxdlm
from jaxdlm.eval.task import TASKS, make
from jaxdlm.models.registry import FAMILIES, released_config

# The page of a public name, by where the name is defined; the longest prefix wins.
PAGES = {
    "jaxdlm._decode": "decode",
    "jaxdlm._load": "decode",
    "jaxdlm.aligned": "grammars",
    "jaxdlm.output": "decode",
    "jaxdlm._planned": "guides",
    "jaxdlm.lengths": "decode",
    "jaxdlm.streams": "decode",
    "jaxdlm.core.carry.Status": "decode",
    "jaxdlm.decisions": "decisions",
    "jaxdlm.errors": "decode",
    "jaxdlm.viz": "decode",
    "jaxdlm.methods": "methods",
    "jaxdlm.policies": "methods",
    "jaxdlm.policy_words": "methods",
    "jaxdlm.core": "rules",
    "jaxdlm.rules": "rules",
    "jaxdlm.steppers": "rules",
    "jaxdlm.caches": "caches",
    "jaxdlm.speculative": "drafters",
    "jaxdlm.drafters": "drafters",
    "jaxdlm.grammar": "grammars",
    "jaxdlm.guides": "guides",
    "jaxdlm.rewards": "guides",
    "jaxdlm.models": "models",
}
FIRST = ("jaxdlm.load", "jaxdlm.decode", "jaxdlm.stream", "jaxdlm.decide", "jaxdlm.chain", "jaxdlm.Output", "jaxdlm.LM")
SHAPES = {"noise": "diffusion-gemma-26b", "two modes": "nemotron-ld-8b"}  # of kinds that no embedded model is of


class Name(NamedTuple):
    public: str  # as a user writes it: jaxdlm.decode
    path: str  # where it is defined: jaxdlm._decode.decode
    value: Any
    page: str | None  # None: it has none yet, which `tests/test_site.py` refuses


def names() -> list[Name]:
    """Every public function and class once, under the shortest of its names."""
    shortest: dict[str, Name] = {}
    for public, value in sorted(_walk(jaxdlm, "jaxdlm"), key=lambda each: (each[0].count("."), each[0])):
        path = path_of(value)
        shortest.setdefault(path, Name(public, path, value, _page(path)))
    return list(shortest.values())


def of_page(page: str) -> list[Name]:
    """The names of a page: what a reader needs first, then functions, then classes."""
    rank = {public: index for index, public in enumerate(FIRST)}

    def key(name: Name) -> tuple:
        return rank.get(name.public, len(rank)), name.public.count("."), inspect.isclass(name.value), name.public

    return sorted((name for name in names() if name.page == page), key=key)


def methods() -> list[tuple[Any, Name]]:
    """The rows of the method table, each with the function that makes the policy."""
    recipes = jaxdlm.policies.RECIPES
    by_path = {name.path: name for name in names()}
    return [(row, by_path[path_of(recipes[row.name])]) for row in jaxdlm.policies.TABLE]


def example(method: str) -> str:
    """A decode by this method, as its entry on the page shows it."""
    row = next(row for row in jaxdlm.policies.TABLE if row.name == method)
    kind = "two modes" if method == "self_speculation" else row.needs
    if kind in SHAPES:
        return f'lm = jd.load("shape:{SHAPES[kind]}")\nout = jd.decode(lm, [[1, 2, 3]], policy=jd.{method}())'
    model = "tiny" if row.caches else "tiny-ar"
    return f'lm = jd.load("{model}")\nout = jd.decode(lm, lm.tokenizer.examples[:2], policy=jd.{method}(), max_new=16)'


def block(name: Name, level: int = 2) -> str:
    """What mkdocstrings makes the reference of a name from."""
    label = name.public.removeprefix("jaxdlm.")
    options = {"heading": name.public, "toc_label": label, "heading_level": level}
    if inspect.isclass(name.value):
        options |= {"members": "null", "filters": "['!^_']"}  # those with a docstring
    made = _made(name.value) if name.page == "caches" else None
    behind = _directive(path_of(made), {"heading_level": level + 3, "members": "[]"}) if made else ""
    return _directive(name.path, options) + behind


def shapes() -> str:
    """The families of models, and the released sizes of each."""
    families = ["| family | `architectures` of config.json |", "|---|---|"]
    sizes = ["| shape | family | layers | width | vocabulary | positions |", "|---|---|--:|--:|--:|--:|"]
    for family in FAMILIES.values():
        families.append(f"| `{family.name}` | {', '.join(f'`{each}`' for each in family.architectures)} |")
        for name in family.released:
            c = released_config(name)
            sizes.append(
                f"| `{name}` | {c.family} | {c.num_layers} | {c.hidden_size} | {c.vocab_size:,} | {c.max_position:,} |"
            )
    return "\n".join([*families, "", *sizes])


def tasks() -> str:
    """The tasks of the benchmark, each with a problem and an answer that its check takes."""
    table = ["| task | columns | gate | trained on | a problem | an answer |", "|---|--:|--:|---|---|---|"]
    for name, task in TASKS.items():
        problem = make(name, 1)[0]
        shown = (f"`{' '.join(each.replace('|', chr(92) + '|').split())}`" for each in (problem.prompt, problem.answer))
        cells = (f"`{name}`", task.canvas, f"{task.gate:.0%}", "yes" if task.family.trained else "no", *shown)
        table.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(table)


def _directive(path: str, options: dict[str, Any]) -> str:
    return (
        "\n".join([f"::: {path}", "    options:", *(f"        {key}: {value}" for key, value in options.items())])
        + "\n\n"
    )


def _made(build: Any) -> type | None:
    """The class of what a function makes, by its annotation: there stands what a cache keeps."""
    made = None if inspect.isclass(build) else inspect.get_annotations(build, eval_str=True).get("return")
    return made if inspect.isclass(made) else None


def _walk(module: types.ModuleType, public: str) -> Iterator[tuple[str, Any]]:
    for name in _listed(module):
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from _walk(value, f"{public}.{name}")
        elif callable(value):
            yield f"{public}.{name}", value
    if module is jaxdlm:
        for table in (jaxdlm.policies.RECIPES, jaxdlm.policies.CACHES):
            for value in table.values():
                yield path_of(value), value


def _listed(module: types.ModuleType) -> list[str]:
    """`__all__`, what `dir` is told to list, or the functions and classes that are defined in the module itself."""
    if "__all__" in vars(module) or module is jaxdlm:
        return list(module.__all__)
    if "__dir__" in vars(module):
        return dir(module)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


def path_of(value: Any) -> str:
    """Where a function or class is defined."""
    value = inspect.unwrap(value)
    return f"{value.__module__}.{value.__qualname__}"


def _page(path: str) -> str | None:
    fitting = [prefix for prefix in PAGES if path == prefix or path.startswith(prefix + ".")]
    return PAGES[max(fitting, key=len)] if fitting else None
