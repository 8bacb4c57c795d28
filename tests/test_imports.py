"""Imports go only downward, and heavy or optional packages only where they are used. Read from the source, not run."""

import ast
import builtins
import dis
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxdlm").rglob("*.py"))

# A module may import its own layer's package and anything on a lower line; siblings on one line stay apart.
LAYERS = [
    {"_start", "distribution", "errors", "struct", "typing", "whole"},
    {"argument", "registry", "vocabulary"},
    {"policy_words", "controls", "messages", "tokenizer_spec", "trained"},
    {"confined", "tokenizer_checks"},
    {"core"},
    {"levels", "streams"},
    {"quant", "grammar"},
    {"rules", "caches", "guides", "rewards", "steppers", "models"},
    {"sharding", "own", "languages"},
    {"speculative", "layout", "stops", "structured"},
    {"methods"},
    {"policies"},
    {"chat", "text", "checkpoint", "_load", "io", "command"},
    {"resolve", "output", "lengths"},
    {"_decode", "decisions"},
    # applications: they use decode and load, and never each other's
    {"train", "eval", "batch", "plan", "viz", "aligned", "_planned"},
    {"serve"},
    {"cli"},
    {"__main__"},
]
# Siblings that one sentence justifies.
ALLOWED = {
    ("text", "chat"): "a prompt is rendered before it is encoded",
    ("text", "checkpoint"): "tokenizer files are read with the same suspicion as weights",
    ("messages", "controls"): "strings of a message are checked as all text is",
    ("_load", "text"): "a loaded model brings its tokenizer",
    ("_load", "checkpoint"): "weights are streamed from the checkpoint reader",
    ("layout", "speculative"): "rows of autoregressive models are laid out, too",
    ("decisions", "_decode"): "a thought is written before it is decided on",
    ("_decode", "decisions"): "choices without a policy are read",
    ("eval", "batch"): "labelled rows are those of `jaxdlm decide`",
    ("plan", "batch"): "a plan is made for the program of a batch",
    ("train", "eval"): "recipes draw their data from the generators of the benchmark",
    ("train", "batch"): "a model that learns from its own answers writes them as a batch job, which resumes",
}
NEVER = {"torch", "transformers", "tensorflow", "sentencepiece"}
CHILD = {
    "jaxdlm.confined.templates",
    "jaxdlm.confined.meter",
}  # in a process of their own, and nothing else imports them
LAZY = {
    "tokenizers", "gguf", "jinja2", "lark", "safetensors", "orbax", "huggingface_hub", "rich", "matplotlib", "lm_eval",
    "starlette", "uvicorn", "prometheus_client",
}  # fmt: skip
AT_HOME = {"serve": {"starlette", "uvicorn", "prometheus_client"}}  # whose command imports the rest when it runs


def imports(tree: ast.AST, *, top_level: bool, types: bool = False) -> list[str]:
    """Dotted names imported in a module: all of them, or only those that run when it is imported, or when types are
    checked."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.append(child.module)
                found.extend(f"{child.module}.{alias.name}" for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level:
                raise AssertionError(f"line {child.lineno}: relative import")
            if top_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if top_level and not types and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            visit(child)

    visit(tree)
    return found


def area(module: str) -> str | None:
    """`jaxdlm.core.loop` -> `core`; None for the package itself or for another package."""
    parts = module.split(".")
    return parts[1] if parts[0] == "jaxdlm" and len(parts) > 1 else None


def level(name: str) -> int | None:
    return next((index for index, layer in enumerate(LAYERS) if name in layer), None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_go_down(file):
    relative = file.relative_to(ROOT).with_suffix("")
    own = relative.parts[1]
    if own == "__init__":
        return  # the public names, re-exported
    assert level(own) is not None, f"{own}: add it to LAYERS"
    for name in imports(ast.parse(file.read_text()), top_level=True):
        other = area(name)
        if other is None or other == own or level(other) is None:
            continue
        assert level(other) < level(own) or (own, other) in ALLOWED, f"{relative} imports {name}"


@pytest.mark.slow
def test_modules_of_a_package_import_each_other_in_no_circle():
    """Nor for their types."""
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES if file.stem[0] != "_"}
    graph = {
        name: {other for other in imports(ast.parse(file.read_text()), top_level=True, types=True) if other in modules}
        for name, file in modules.items()
    }
    inside = {name: {other for other in others if area(other) == area(name)} for name, others in graph.items()}
    assert sum(map(len, inside.values())) > 100
    graphlib.TopologicalSorter(inside).prepare()  # raises CycleError


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["jaxdlm", "checkpoints_convert", "scripts", "benchmarks", "tests"])
def test_modules_that_are_imported_exist(folder):
    """`jaxdlm.load` is the function, and its module is `_load`: a module of a public name would hide it."""
    modules = {file.stem for file in (ROOT / "jaxdlm").iterdir()}
    for file in (ROOT / folder).rglob("*.py"):
        names = imports(ast.parse(file.read_text()), top_level=False)
        missing = [name for name in names if name.count(".") > 1 and (area(name) or "_load") not in modules]
        assert not missing, f"{file.relative_to(ROOT)} imports {missing[0]}"
    assert not modules & {"load", "decode"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_heavy_packages(file):
    tree = ast.parse(file.read_text())
    every = {name.split(".")[0] for name in imports(tree, top_level=False)}
    at_import = {name.split(".")[0] for name in imports(tree, top_level=True)}
    assert not every & NEVER
    if ".".join(file.relative_to(ROOT).with_suffix("").parts) not in CHILD:
        assert not CHILD & set(imports(tree, top_level=False))
        home = AT_HOME.get(file.parent.name, set()) if file.stem != "cli" else set()
        assert not at_import & (LAZY - home), "import it inside the function that needs it"


def test_import_is_light():
    """`import jaxdlm` loads none of the lazy packages (but rich, which flax loads)."""
    unwanted = (NEVER | LAZY) - {"rich"}
    code = f"import sys, jaxdlm; print(sorted(set(sys.modules) & {unwanted!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def instructions(code):
    """Of a compiled module and of everything that is defined in it."""
    yield from dis.get_instructions(code)
    for inner in code.co_consts:
        if hasattr(inner, "co_code"):
            yield from instructions(inner)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["jaxdlm", "checkpoints_convert", "scripts", "benchmarks", "tests"])
def test_every_name_is_bound_somewhere(folder):
    """The lint cannot say it: to it, the shapes in annotations are undefined names."""
    known = {*dir(builtins), "__file__", "__annotations__"}
    for path in sorted((ROOT / folder).rglob("*.py")):
        found = list(instructions(compile(path.read_text(), str(path), "exec")))
        bound = {one.argval for one in found if one.opname in ("STORE_NAME", "STORE_GLOBAL")}
        used = {one.argval for one in found if one.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
        assert used - bound <= known, f"{path}: {sorted(used - bound - known)}"
