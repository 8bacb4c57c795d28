"""The command line: parses arguments into the calls of the library, prints answers on stdout and the rest on stderr."""

import contextlib
import functools
import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from jaxdlm import argument, command, distribution
from jaxdlm.command import BAD_INPUT, FAILED, MAX_NEW, NONFINITE, OK, Command, flag, json_flag, option, section
from jaxdlm.errors import InputError, did_you_mean

LINE = 1 << 24  # bytes of a prompt on stdin

COMMANDS = {  # name -> where it is, imported when it is needed; its line in the help
    "generate": ("jaxdlm.cli:generate", "Answer prompts."),
    "examples": ("jaxdlm.cli:examples", "List prompts that the embedded models understand."),
    "policies": ("jaxdlm.cli:policies", "List the ways to decode."),
    "decide": ("jaxdlm.batch.decide_cli:decide", "Answer typed questions with probabilities."),
    "batch": ("jaxdlm.batch.cli:batch", "Answer a file of prompts, resumably."),
    "warmup": ("jaxdlm.batch.cli:warmup", "Compile a batch job's programs beforehand."),
    "eval": ("jaxdlm.eval.cli:evaluate", "Measure accuracy against speed of policies."),
    "serve": ("jaxdlm.serve.cli:serve", "Answer requests of OpenAI's clients."),
    "models": ("jaxdlm.plan.models_cli:models", "List models, their size and what holds them."),
    "pull": ("jaxdlm.plan.pull_cli:pull", "Fetch a released model."),
    "plan": ("jaxdlm.plan.cli:plan", "Fit and time on a TPU slice that is not here."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 success, 1 the work failed, 2 wrong usage or bad input (one line on stderr)."""
    return command.run(root, "jaxdlm", argv)


class Commands(click.Group):
    """The commands of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            raise click.UsageError(f"No such COMMAND: {args[0]}{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Commands, invoke_without_command=True, context_settings=command.HELP)
@command.traceback
@click.option(
    "--compile-cache", metavar="DIR", help="Folder or URL of compiled programs, or off; also JAXDLM_COMPILE_CACHE."
)
@click.version_option(distribution.VERSION, message="jaxdlm %(version)s", help="Show the version.")
@click.pass_context
def root(ctx: click.Context, traceback: bool, compile_cache: str | None) -> None:
    """Decoding diffusion language models in JAX."""
    if compile_cache is not None:
        os.environ["JAXDLM_COMPILE_CACHE"] = compile_cache
    if ctx.invoked_subcommand is None:
        raise click.UsageError(f"COMMAND is missing: one of {', '.join(COMMANDS)}", ctx)


# ---------------------------------------------------------------------------------------------------- generate


class Generate(Command):
    """Reads a prompt that begins with a number or holds a space as a prompt, whatever dashes it begins with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = True  # they arrive as prompts
        plain = len(args) - args.index("--") - 1 if "--" in args else 0
        rest = super().parse_args(ctx, args)
        prompts = ctx.params["prompts"] or ()  # none while a shell completes words
        for word in prompts[: len(prompts) - plain]:
            if word[:1] == "-" and word != "-" and " " not in word and not word[1:2].isdigit():
                raise click.NoSuchOption(word.partition("=")[0], ctx=ctx)
        return rest


@click.command(
    cls=Generate,
    epilog="""\b
    Examples:
      jaxdlm generate "reverse : [ Alan , Kate , Omar ]" --watch
      jaxdlm generate - --policy local_leap,kappa=0.9,radius=4 --json < prompts""",
)
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@command.decoding(
    click.INT,
    option("--temperature", type=float, metavar="T", help="sampling temperature of the policy"),
    option("--prefill", metavar="TEXT", help="how the answer begins; what follows it is printed"),
    command.rows_per_program,
)
@section(
    "Output",
    json_flag("one JSON object per row on stdout, nothing else"),
    flag("--watch", help="draw the denoising (on stderr together with --json)"),
    option("--html", metavar="FILE", help="write the denoising as a self-contained page"),
)
def generate(
    prompts: Sequence[str], model: str, policy: str | None, cache: str, max_new: int | None, block: int | None, seed: int,
    raw: bool, temperature: float | None, stop: Sequence[str], no_stop: bool, as_json: bool, watch: bool,
    html: str | None, rows_per_program: int | None, choices: str | None, regex: str | None, json_schema: str | None,
    any_json: bool, lark: str | None, depth: Any, system: str | None, tools: str | None, chat_template_kwargs: str | None,
    prefill: str | None,
) -> int:  # fmt: skip
    """Answer prompts; - reads one per line from stdin, and what follows -- may begin with dashes.

    A prompt that cannot be read, or whose logits are not finite, is named on stderr; the others are answered all the
    same.
    """
    import jaxdlm as jd
    from jaxdlm._load import SHAPE
    from jaxdlm.core.carry import Status
    from jaxdlm.decisions.choosing import can
    from jaxdlm.messages import read_form
    from jaxdlm.policies import default, read
    from jaxdlm.policy_words import parse_policy
    from jaxdlm.resolve import has_blocks
    from jaxdlm.structured import NESTING

    prompts, ends = read_prompts(prompts), command.stopping(stop, no_stop)
    chat = command.chat(system, tools, chat_template_kwargs)
    if prefill is not None and (raw or not prefill.strip()):
        raise InputError("--prefill begins the assistant's words in a chat: give it some, without --raw")
    # what needs no model is checked before loading one
    if temperature is not None and policy is not None and "temperature" in parse_policy(policy)[1]:
        raise InputError(f"--temperature {temperature} is also an argument of --policy {policy}: keep one")
    language = command.language(choices, regex, json_schema, any_json, lark, depth)
    if depth != "usual" and not language.keys() & set(NESTING):
        raise InputError(f"--depth {depth} is that of --json-schema, --any-json or --lark: give one of them")
    page = None if html is None else _page(html)
    stated = {} if temperature is None else {"temperature": argument.temperature(temperature)}
    method = None if policy is None else read(policy, stated)
    if model.startswith(SHAPE):
        raise InputError(f"{model} has random weights and no tokenizer: it is for benchmarks and jaxdlm plan")
    lm = jd.load(model)
    if lm.tokenizer is None:
        advice = lm.advice or "pass token ids to jaxdlm.decode from Python instead"
        raise InputError(f"model {model!r} has no tokenizer: {advice}")
    reads = choices is not None and method is None and can(lm)  # `decode` reads them, and writes nothing
    method = read(default(lm.config), {} if reads else stated) if method is None else method
    max_new = _first(max_new, lm.defaults.get("max_new_tokens"), MAX_NEW)
    if block is None and has_blocks(method) and not reads:
        block = lm.defaults.get("block_length")  # None: decode's default for this model
    asked = [prompt if prefill is None else _begun(prompt, prefill) for prompt in prompts]
    ids, refused = _readable(lm, asked, raw, read_form(**chat))
    if not ids:
        return BAD_INPUT
    texts = [prompts[index] for index in ids]
    begin = time.perf_counter()
    decode = functools.partial(_followed, as_json) if watch else jd.decode
    out = decode(
        lm,
        [asked[index] for index in ids],
        jd.choose(temperature or 0.0) if reads else method,
        cache,
        max_new,
        block,
        seed,
        ids,
        raw=raw,
        stop=ends,
        rows_per_program=rows_per_program,
        **chat,
        **language,
    )
    seconds = time.perf_counter() - begin
    _report(lm, texts, ids, out, seconds, as_json, watch, page)
    broken = [index for index, status in zip(ids, out.status, strict=True) if status is Status.NONFINITE]
    for index in broken:
        print(f"jaxdlm: prompt {index} has no whole answer: {NONFINITE}", file=sys.stderr)
    return FAILED if broken else BAD_INPUT if refused else OK


def _page(html: str) -> pathlib.Path:
    """Where the page is to be written. Raises InputError where it cannot be, before anything is decoded."""
    target = argument.path(html, "--html")
    reason = "it is a folder" if target.is_dir() else "no such folder" if not target.parent.is_dir() else None
    if reason is None and not os.access(target if target.exists() else target.parent, os.W_OK):
        reason = "no permission"
    if reason is not None:
        raise InputError(f"{html} cannot be written ({reason}): choose another file")
    return target


def _begun(prompt: str, prefill: str) -> list[dict[str, str]]:
    """A chat whose answer is begun."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": prefill}]


def _readable(lm: Any, prompts: Sequence[Any], raw: bool, form: Any) -> tuple[list[int], int]:
    """(indices of the prompts that the tokenizer reads, number of the others, each named on stderr)."""
    from jaxdlm.layout import words_of

    ids = []
    for index, prompt in enumerate(prompts):
        try:
            words_of(lm, prompt, raw, form)
            ids.append(index)
        except InputError as error:
            where = f"prompt {index}: " if len(prompts) > 1 else ""
            print(f"jaxdlm: {where}{' '.join(str(error).split())}", file=sys.stderr)
    return ids, len(prompts) - len(ids)


def _followed(as_json: bool, lm: Any, prompts: list[Any], *args: Any, **settings: Any) -> Any:
    """`decode`, drawn while it works."""
    from rich.console import Console

    import jaxdlm as jd

    outputs = jd.stream(lm, prompts, *args, **settings)
    return jd.viz.follow(outputs, tokenizer=lm.tokenizer, prompts=prompts, console=Console(stderr=as_json))


def _report(
    lm: Any, prompts: list[str], ids: list[int], out: Any, seconds: float, as_json: bool, watch: bool, html: Any
) -> None:
    from jaxdlm import viz

    paths = [viz.path(out, row, prompt=prompt) for row, prompt in enumerate(prompts)]
    for row, drawn in enumerate(paths):
        if as_json:
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
            if not watch:
                print(f"# {viz.summary(drawn)}", file=sys.stderr)
    if html is not None:
        print(f"# wrote {viz.write_html(paths, html)}", file=sys.stderr)


def read_prompts(words: Sequence[str]) -> list[str]:
    """The prompts themselves, where `-` stands for the lines of stdin (empty lines left out).

    A line that is a JSON string, in its quotes, is what it spells: how `examples` writes a prompt of several lines.
    """
    prompts: list[str] = []
    for word in words:
        if word == "-":
            prompts += [_unquoted(line) for line in stdin_lines() if line.strip()]
        else:
            prompts.append(word)
    if not prompts:
        raise InputError("there is no prompt on stdin: write one per line")
    return prompts


def stdin_lines() -> Iterator[str]:
    """The lines of stdin without their ends, whoever wrote them: UTF-8, with or without a mark, ended as on any system.

    Raises InputError for a line that is not UTF-8 or longer than any prompt.
    """
    stdin = getattr(sys.stdin, "buffer", None)
    if stdin is None:  # replaced by text, as a notebook or a test may do
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    for number, line in enumerate(iter(lambda: stdin.readline(LINE + 1), b""), start=1):
        if len(line) > LINE:
            raise InputError(f"line {number} of stdin has more than {LINE} bytes: write one prompt per line")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of stdin is not UTF-8 at byte {error.start}: save it as UTF-8") from None


def _unquoted(line: str) -> str:
    if line.startswith('"'):
        with contextlib.suppress(ValueError):
            return str(json.loads(line))
    return line


def _quoted(prompt: str) -> str:
    """A prompt as one line that `_unquoted` reads back."""
    plain = prompt == prompt.strip() and prompt.isprintable() and not prompt.startswith('"')
    return prompt if plain else json.dumps(prompt, ensure_ascii=False)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


# -------------------------------------------------------------------------------------------- policies, examples


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


@click.command(cls=Command)
@section(
    "Output", flag("--markdown", "as_markdown", help="as a Markdown table"), json_flag("one JSON object per method")
)
def policies(as_markdown: bool, as_json: bool) -> None:
    """List the ways to decode: what each commits, its paper, whether it is trained or lossless, and its caches."""
    rows = policy_rows()
    if as_json:
        for row in rows:
            print(json.dumps(row))
    elif as_markdown:
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


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table of docs/policies.md."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])


@click.command(cls=Command)
@section(
    "Prompts",
    command.model,
    option("--task", metavar="T", help="fresh problems of one task instead, from its held-out split"),
    option("--n", type=command.COUNT, default=5, metavar="N", help="how many of --task"),
    option("--seed", type=command.SEED, default=0, metavar="S", help="which problems of --task"),
)
@section("Output", json_flag("one JSON object per prompt, with its task and answer"))
def examples(model: str, task: str | None, n: int, seed: int, as_json: bool) -> None:
    """List prompts that work: those beside the model, or problems of a task that no training run has seen."""
    for row in _held_out(task, n, seed) if task else _listed(model):
        print(json.dumps(row, ensure_ascii=False) if as_json else _quoted(row["prompt"]))


def _held_out(task: str, n: int, seed: int) -> list[dict[str, str]]:
    from jaxdlm.eval.task import make

    return [
        {"id": x.id, "task": x.task, "prompt": x.prompt, "answer": x.answer}
        for x in make(task, n, split="test", seed=seed)
    ]


def _listed(model: str) -> list[dict[str, str]]:
    from jaxdlm._load import checkpoint_tokenizer

    tokenizer = checkpoint_tokenizer(model)
    examples = tokenizer.examples if tokenizer is not None else ()
    if not examples:
        raise InputError(f"model {model!r} lists no examples: any prompt will do")
    return [{"id": str(index), "prompt": prompt} for index, prompt in enumerate(examples)]
