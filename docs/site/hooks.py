"""What mkdocs asks for: pages from files outside `docs/`, links between them, and the parts that the code writes."""

import json
import pathlib
import posixpath
import re
import sys

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import pages  # noqa: E402

# Files of the repository that are pages although they lie elsewhere or are no Markdown, and their place on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/quickstart.ipynb": "quickstart.md",
    "scripts/tpu/README.md": "tpu.md",
    "benchmarks/notes.md": "notes.md",
}
ORIGINS = {page: origin for origin, page in ELSEWHERE.items()}
LINK = re.compile(r"(?P<before>\]\(|\b(?:src|href)=\")(?P<target>[^)\"\s#]+)(?P<rest>[^)\"]*)(?P<after>[)\"])")
PART = re.compile(r"^<!-- site: (?P<part>\w+)(?: (?P<of>\w+))? -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for origin, page in ELSEWHERE.items():
        text = (ROOT / origin).read_text()
        files.append(File.generated(config, page, content=notebook(text) if origin.endswith(".ipynb") else text))
    files.append(File.generated(config, "site.css", content=(HERE / "site.css").read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    linked = LINK.sub(lambda link: rewritten(link, here), markdown)
    return PART.sub(lambda part: PARTS[part["part"]](part["of"]), linked)


def rewritten(link: re.Match, here: str) -> str:
    """The link of a file of the repository, as the page of the site has it."""
    target = link["target"]
    if re.match(r"[a-z]+:", target):
        return link[0]
    origin = ORIGINS.get(here, f"docs/{here}")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if not (ROOT / file).is_file():
        return link[0]  # mkdocs says so where it is a link at all, and no piece of code
    if file not in ELSEWHERE and not file.startswith("docs/"):
        raise PluginError(f"{origin} links to {file}, which is no page: name it in ELSEWHERE of docs/site/hooks.py")
    place = ELSEWHERE.get(file, file.removeprefix("docs/"))
    return f"{link['before']}{posixpath.relpath(place, posixpath.dirname(here) or '.')}{link['rest']}{link['after']}"


def notebook(text: str) -> str:
    """The Markdown of a notebook: its words, its code, and what the code printed where that was kept."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                parts.append("```text\n" + "".join(output["text"]) + "\n```")
    return "\n\n".join(parts)


def names(page: str) -> str:
    """The reference of all that is public on a page."""
    return "\n\n".join(pages.block(name) for name in pages.of_page(page))


def methods(_: None) -> str:
    """The method table, and each method with its line of it."""
    table = ["| method | commits | paper | trained | lossless |", "|---|---|---|---|---|"]
    each = []
    for row, name in pages.methods():
        papers = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in row.paper.split(", "))
        trained = "yes" if row.trained else "no"
        table.append(f"| [{row.name}](#{row.name}) | {row.idea} | {papers} | {trained} | {row.lossless} |")
        caches = ", ".join(f"`{cache}`" for cache in row.caches) or "keys and values are always kept"
        each.append(
            f"## {row.name} {{ #{row.name} }}\n\nCommits {row.idea}. arXiv {papers}; trained: {trained}; "
            f"lossless: {row.lossless}; caches: {caches}.{gallery(row.name)}\n\n"
            f"```python\n{pages.example(row.name)}\n```\n\n{pages.block(name, 5)}"
        )
    return "\n".join(table) + "\n\n" + "\n\n".join(each)


def gallery(method: str) -> str:
    measured = f"\n## {method}\n" in (ROOT / "docs/policies.md").read_text()
    return f" [Accuracy against forwards](../policies.md#{method})." if measured else ""


def helpers(_: None) -> str:
    """What is public beside the methods on their page."""
    made = {name.path for _, name in pages.methods()}
    return "\n\n".join(pages.block(name, 3) for name in pages.of_page("methods") if name.path not in made)


def commands(_: None) -> str:
    """The help of every command, as a terminal of 80 columns shows it."""
    from checkpoints_convert import __main__ as convert
    from jaxdlm import cli

    group = cli.root
    with click.Context(group, info_name="jaxdlm", max_content_width=80, terminal_width=80) as top:
        every = [(f"jaxdlm {name}", group.get_command(top, name), top) for name in group.list_commands(top)]
        every.append(("jaxdlm-convert", convert.convert, None))
        return "\n\n".join(f"## {name}\n\n```text\n{told(name, command, top)}\n```" for name, command, top in every)


def told(name: str, command: click.Command, top: click.Context | None) -> str:
    context = click.Context(command, info_name=name.split()[-1], parent=top, max_content_width=80, terminal_width=80)
    return click.unstyle(command.get_help(context))


PARTS = {
    "names": names, "methods": methods, "helpers": helpers, "commands": commands, "tasks": lambda _: pages.tasks(),
    "shapes": lambda _: pages.shapes(),
}  # fmt: skip
