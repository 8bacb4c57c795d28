"""The command line: parses arguments into the calls of the library, prints answers on stdout and the rest on stderr."""

import argparse
import ast
import difflib
import importlib
import importlib.util
import inspect
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from jaxdlm.errors import InputError

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
MAX_NEW = 128
AREAS = ("jaxdlm.eval.cli", "jaxdlm.batch.cli", "jaxdlm.plan")  # each adds its commands by add_parser(subparsers)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 success, 1 the work failed, 2 wrong usage or bad input (one line on stderr)."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except InputError as error:
        return _fail(args, error, BAD_INPUT, str(error))
    except KeyboardInterrupt as error:
        return _fail(args, error, INTERRUPTED, "interrupted")
    except BrokenPipeError:  # the reader of stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        return _fail(
            args, error, FAILED, f"{type(error).__name__}: {error}; --traceback before the command shows where"
        )


def _fail(args: argparse.Namespace, error: BaseException, status: int, message: str) -> int:
    if args.traceback:
        raise error
    print(f"jaxdlm: {' '.join(message.split())}", file=sys.stderr)
    return status


def parser() -> Parser:
    """The parser with every command that this installation has."""
    root = Parser(prog="jaxdlm", description="Decoding diffusion language models in JAX.")
    root.add_argument("--traceback", action="store_true", help="show the Python traceback of a failure")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    _add_generate(commands)
    _add_policies(commands)
    _add_examples(commands)
    for area in AREAS:
        if _exists(area):
            importlib.import_module(area).add_parser(commands)
    return root


def _exists(module: str) -> bool:
    """True where every package on the way to the module exists (find_spec imports the parents)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# ---------------------------------------------------------------------------------------------------- generate


def _add_generate(commands: Any) -> None:
    command = commands.add_parser("generate", help="answer prompts", description="Answers prompts.")
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="a prompt; - reads one per line from stdin")
    command.add_argument("--model", default="tiny", help="embedded name, folder, Hub id or shape:NAME (default: tiny)")
    command.add_argument(
        "--policy",
        default="threshold",
        metavar="NAME[,key=value...]",
        help="how to decode, see jaxdlm policies (default: threshold)",
    )
    command.add_argument("--cache", default="none", metavar="NAME", help="key/value cache (default: none)")
    command.add_argument(
        "--max-new", type=int, metavar="N", help=f"columns to generate (default: the model's own, else {MAX_NEW})"
    )
    command.add_argument(
        "--block", type=int, metavar="N", help="block length (default: the model's own, else that of decode)"
    )
    command.add_argument("--temperature", type=float, metavar="T", help="sampling temperature of the policy")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all randomness (default: 0)")
    command.add_argument("--raw", action="store_true", help="do not pass prompts through the chat template")
    command.add_argument("--json", action="store_true", help="one JSON object per row on stdout, nothing else")
    command.add_argument("--watch", action="store_true", help="draw the denoising (on stderr together with --json)")
    command.add_argument("--html", metavar="FILE", help="write the denoising as a self-contained page")
    command.set_defaults(run=generate)


def generate(args: argparse.Namespace) -> int:
    """The `generate` command. A prompt that cannot be read is named on stderr; the others are answered all the same."""
    import jaxdlm as jd
    from jaxdlm.load import SHAPE

    prompts = read_prompts(args.prompts)
    # what needs no model is checked before loading one
    policy = read_policy(args.policy, {} if args.temperature is None else {"temperature": args.temperature})
    if args.model.startswith(SHAPE):
        raise InputError(f"{args.model} has random weights and no tokenizer: it is for benchmarks and jaxdlm plan")
    lm = jd.load(args.model)
    if lm.tokenizer is None:
        raise InputError(f"model {args.model!r} has no tokenizer: pass token ids to jaxdlm.decode from Python instead")
    max_new = _first(args.max_new, lm.defaults.get("max_new_tokens"), MAX_NEW)
    block = _first(args.block, lm.defaults.get("block_length"))  # None: decode's default for this model
    ids, refused = _readable(lm, prompts, args.raw)
    if not ids:
        return BAD_INPUT
    kept = [prompts[index] for index in ids]
    options = {"cache": args.cache, "max_new": max_new, "block": block, "seed": args.seed, "ids": ids, "raw": args.raw}
    begin = time.perf_counter()
    out = jd.decode(lm, kept, policy=policy, **options)
    seconds = time.perf_counter() - begin
    _report(args, lm, kept, ids, out, seconds)
    return BAD_INPUT if refused else OK


def _readable(lm: Any, prompts: Sequence[str], raw: bool) -> tuple[list[int], int]:
    """(indices of the prompts that the tokenizer reads, number of the others, each named on stderr)."""
    ids = []
    for index, prompt in enumerate(prompts):
        try:
            lm.tokenizer.encode_prompt(prompt, raw=raw)
            ids.append(index)
        except InputError as error:
            where = f"prompt {index}: " if len(prompts) > 1 else ""
            print(f"jaxdlm: {where}{' '.join(str(error).split())}", file=sys.stderr)
    return ids, len(prompts) - len(ids)


def _report(args: argparse.Namespace, lm: Any, prompts: list[str], ids: list[int], out: Any, seconds: float) -> None:
    from rich.console import Console

    from jaxdlm import viz

    paths = [viz.path(out, row, tokenizer=lm.tokenizer, prompt=prompt) for row, prompt in enumerate(prompts)]
    for row, drawn in enumerate(paths):
        if args.watch:
            viz.watch(drawn, console=Console(stderr=args.json))
        if args.json:
            fields = {
                "id": ids[row],
                "prompt": prompts[row],
                "text": out.text[row],
                "tokens": [int(token) for token in out.tokens[row]],
                "forwards": drawn.forwards,
                "tokens_per_forward": drawn.tokens_per_forward,
                "status": drawn.status,
                "seconds": seconds,
            }
            if out.accepted is not None:
                fields["accepted"] = float(out.accepted[row])
            print(json.dumps(fields, ensure_ascii=False), flush=True)
        else:
            print(out.text[row], flush=True)
            if not args.watch:
                print(f"# {viz.summary(drawn)}", file=sys.stderr)
    if args.html:
        print(f"# wrote {viz.write_html(paths, args.html)}", file=sys.stderr)


def read_prompts(words: Sequence[str]) -> list[str]:
    """The prompts themselves, where `-` stands for the lines of stdin (empty lines left out)."""
    prompts: list[str] = []
    for word in words:
        if word == "-":
            prompts += [line.rstrip("\n") for line in sys.stdin if line.strip()]
        else:
            prompts.append(word)
    if not prompts:
        raise InputError("there is no prompt on stdin: write one per line")
    return prompts


def read_policy(words: str, extra: dict[str, Any]) -> Any:
    """`NAME[,key=value...]` to what `decode` takes: the name alone, or the recipe called with the typed values."""
    from jaxdlm import policies

    name, arguments = parse_policy(words)
    arguments |= extra
    if name not in policies.RECIPES:
        raise InputError(f"unknown policy {name!r}{closest(name, policies.RECIPES)}: jaxdlm policies lists them")
    recipe = policies.RECIPES[name]
    known = inspect.signature(recipe).parameters
    wrong = [key for key in arguments if key not in known]
    if wrong and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        raise InputError(f"policy {name!r} takes no {wrong[0]!r}: it takes {', '.join(known) or 'no arguments'}")
    if not arguments:
        return name
    try:
        return recipe(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"policy {words!r}: {error}") from error


def parse_policy(words: str) -> tuple[str, dict[str, Any]]:
    """`"prophet,steps=8,thresholds=(7.5,5,2.5)"` -> ("prophet", {"steps": 8, "thresholds": (7.5, 5, 2.5)}).

    Values are Python literals, true/false/none in any case, or else words.
    """
    name, *pairs = _split(words)
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip().isidentifier() or not value.strip():
            raise InputError(f"policy argument {pair!r} is not key=value: write --policy NAME,key=value,...")
        if key.strip() in arguments:
            raise InputError(f"policy argument {key.strip()!r} is given twice: keep one")
        arguments[key.strip()] = _literal(value.strip())
    return name.strip(), arguments


def _split(words: str) -> list[str]:
    """Parts between commas that are outside brackets."""
    parts, depth = [""], 0
    for character in words:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _literal(value: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if value.lower() in named:
        return named[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def closest(name: str, known: Any) -> str:
    """ ", did you mean ...?" or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


# -------------------------------------------------------------------------------------------- policies, examples


def _add_policies(commands: Any) -> None:
    command = commands.add_parser("policies", help="list the ways to decode", description="Lists the ways to decode.")
    command.add_argument("--markdown", action="store_true", help="as a Markdown table")
    command.add_argument("--json", action="store_true", help="one JSON object per method")
    command.set_defaults(run=lambda args: list_policies(args))


COLUMNS = ("method", "commits", "paper", "trained", "lossless", "caches")


def policy_rows() -> list[dict[str, str]]:
    """One row per method: its name, idea, paper, whether it needs training, is lossless, and its caches."""
    from jaxdlm import policies

    return [
        {
            "method": row.name,
            "commits": row.idea,
            "paper": f"arXiv {row.paper}",
            "trained": "yes" if row.trained else "no",
            "lossless": row.lossless,
            "caches": "all" if row.caches == policies.ALL else ", ".join(row.caches),
        }
        for row in policies.TABLE
    ]


def list_policies(args: argparse.Namespace) -> int:
    """The `policies` command."""
    rows = policy_rows()
    if args.json:
        for row in rows:
            print(json.dumps(row))
    elif args.markdown:
        print(markdown(rows))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold")
        for column in COLUMNS:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    return OK


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table of the README."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])


def _add_examples(commands: Any) -> None:
    command = commands.add_parser(
        "examples", help="prompts that the embedded models understand", description="Prompts that work."
    )
    command.add_argument("--model", default="tiny", help="embedded name or folder (default: tiny)")
    command.add_argument("--task", metavar="T", help="fresh problems of one task, from its held-out split")
    command.add_argument("--n", type=int, default=5, metavar="N", help="how many of --task (default: 5)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="which ones (default: 0)")
    command.add_argument("--json", action="store_true", help="one JSON object per prompt, with its task and answer")
    command.set_defaults(run=list_examples)


def list_examples(args: argparse.Namespace) -> int:
    """The `examples` command: those listed beside the model, or problems of a task that no training run has seen."""
    for row in _held_out(args) if args.task else _listed(args.model):
        print(json.dumps(row, ensure_ascii=False) if args.json else row["prompt"])
    return OK


def _held_out(args: argparse.Namespace) -> list[dict[str, str]]:
    from jaxdlm.eval.task import make

    if args.n < 1:
        raise InputError(f"--n {args.n}: ask for at least one")
    examples = make(args.task, args.n, split="test", seed=args.seed)
    return [{"id": x.id, "task": x.task, "prompt": x.prompt, "answer": x.answer} for x in examples]


def _listed(model: str) -> list[dict[str, str]]:
    from jaxdlm.load import checkpoint_tokenizer

    tokenizer = checkpoint_tokenizer(model)
    examples = tokenizer.examples if tokenizer is not None else ()
    if not examples:
        raise InputError(f"model {model!r} lists no examples: any prompt will do")
    return [{"prompt": prompt} for prompt in examples]
