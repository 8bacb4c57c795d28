"""What the commands share: options that are stated once, the look of --help, errors of one line and exit statuses."""

import codecs
import errno
import functools
import glob
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import shell_complete

from jaxdlm import argument, distribution  # noqa: F401 (the second raises where another project is in the way)
from jaxdlm.errors import InputError, Unfinished, did_you_mean, shortened

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
MAX_NEW = 128
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
NO_TPU = {  # no metadata server is asked which TPU this is, and nobody is told that it is none
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost",
}  # fmt: skip
NONFINITE = (  # why a row ends as nonfinite
    "its logits became NaN or infinite, or banned every token: check the weights, and the numbers of the policy"
)
HELP = {"show_default": True, "max_content_width": 100}  # context settings of whatever `run` runs

# ------------------------------------------------------------------------------------------------------ running


def run(command: click.Command, prog: str, argv: Sequence[str] | None = None) -> int:
    """The exit status of a command: 0 success, 1 the work failed, 2 wrong usage or bad input, 130 interrupted.

    An error is one line on stderr, or is raised where the command's own option --traceback is given.
    """
    complete = f"_{prog.upper()}_COMPLETE"  # what the completion script of a shell sets
    if complete in os.environ:
        return shell_complete(command, {}, prog, complete, os.environ[complete])
    without_tpu()
    with warnings.catch_warnings():  # a line each; that an entry could not be kept is no news to anybody
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
        warnings.showwarning = lambda message, *_, **__: print(f"{prog}: {_line(message)}", file=sys.stderr)
        return _run(command, prog, argv)


def note(line: str) -> None:
    """Says on stderr how the work goes; stdout is for results."""
    print(f"# {line}", file=sys.stderr, flush=True)


def _run(command: click.Command, prog: str, argv: Sequence[str] | None) -> int:
    traceback = False
    _escape(sys.stdout)
    try:
        with command.make_context(prog, list(sys.argv[1:] if argv is None else argv)) as context:
            traceback = context.params["traceback"]
            status = command.invoke(context) or OK
        sys.stdout.flush()  # what cannot be written is an error of the command, not of the interpreter's end
        return status
    except click.exceptions.Exit as ended:  # --help and --version
        return ended.exit_code
    except BrokenPipeError:  # the reader of stdout has seen enough
        _drop_stdout()
        return OK
    except (Exception, KeyboardInterrupt) as error:
        if traceback:
            raise
        status, line = _explain(error, prog)
        print(_line(line), file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_stdout()
        return status


def _escape(stream: Any) -> None:
    """Makes a stream write letters that its encoding lacks as JSON spells them, so that lines of JSON stay JSON."""

    def spelled(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        wrong = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{wrong[at : at + 4]}" for at in range(0, len(wrong), 4)), error.end

    codecs.register_error("json", spelled)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="json")


def _drop_stdout() -> None:
    """The interpreter's end would try to write once more what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(text: Any) -> str:
    return " ".join(shortened(str(text)).split())


def without_tpu(chips: Sequence[str] = ("/dev/accel*", "/dev/vfio/[0-9]*")) -> None:
    """Tells libtpu on a machine without chips what it would look for: it prints errors about hosts that it cannot find."""
    if not any(map(glob.glob, chips)):
        for name, value in NO_TPU.items():
            os.environ.setdefault(name, value)


def _explain(error: BaseException, prog: str) -> tuple[int, str]:
    """(exit status, line) of an error."""
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else prog
        return BAD_INPUT, f"{where}: {_usage(error)}; see {where} --help"
    if isinstance(error, InputError):
        return BAD_INPUT, f"{prog}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "; ".join([f"{prog}: interrupted", *error.args])
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" ({error.filename})" if error.filename else ""
        return FAILED, f"{prog}: the disk is full{where}: free some space, and run the same command again"
    if isinstance(error, click.ClickException | Unfinished):  # a failure that was foreseen
        return FAILED, f"{prog}: {error}"
    return FAILED, f"{prog}: {type(error).__name__}: {error}; {prog} --traceback ... shows where"


def _usage(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [name for each in error.ctx.command.get_params(error.ctx) for name in each.opts]
        return f"No such option: {error.option_name}{did_you_mean(error.option_name, known)}"
    return error.format_message().rstrip(".")


traceback = click.option("--traceback", is_flag=True, help="Show the Python traceback of a failure.")

# --------------------------------------------------------------------------------------------------------- help


class Option(click.Option):
    """An option under a title of --help; a default in words is shown like any other."""

    def __init__(self, *names: Any, section: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.section = section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0], re.sub(r"\[default: \((.*)\)\]", r"[default: \1]", record[1]))


class Command(click.Command):
    """A command whose --help lists its options section by section, and whose usage errors name it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Help"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=32)


def option(*names: str, **settings: Any) -> Callable[..., Any]:
    """An option, for `section`; its arguments are those of `click.option`."""
    return functools.partial(click.option, *names, cls=Option, **settings)


def flag(*names: str, help: str) -> Callable[..., Any]:
    return option(*names, is_flag=True, help=help)


def section(title: str, *options: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorates a command with options that --help shows under a title."""

    def decorate(function: Any) -> Any:
        for make in reversed(options):
            function = make(section=title)(function)
        return function

    return decorate


class Number(click.ParamType):
    """A number of a kind, read as click reads it."""

    name = "number"

    def __init__(self, kind: argument.Kind, read: click.ParamType = click.INT) -> None:
        self.kind, self.read = kind, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.kind(self.read.convert(value, param, ctx), param.opts[0] if param else self.name)


class Depth(click.ParamType):
    """How deep texts may nest: a whole number; none: without bound; usual: that of each form."""

    name = "depth"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        words = {"none": None, "usual": "usual"}
        return words[value] if value in words else Number(argument.whole(0)).convert(value, param, ctx)


DEPTH = Depth()
COUNT, PLACE = Number(argument.whole(1)), Number(argument.whole(0))
ROWS = Number(argument.whole(1, argument.MOST_ROWS))  # at a time, in a device's memory
AMOUNT, PRICE = Number(argument.real(above=0), click.FLOAT), Number(argument.real(0), click.FLOAT)
SECONDS = Number(argument.real(above=0, high=10**7), click.FLOAT)  # what a thread can wait for
SEED = Number(argument.whole(-(2**63), 2**64 - 1))

# ----------------------------------------------------------------------------------------------- shared options

POLICY_WORDS = "NAME[,key=value...]"
model = option(
    "--model",
    default="tiny",
    metavar="M",
    help="tiny, smollm2, ..., a folder, GGUF file, Hub id or shape:NAME",
)
policy = option(
    "--policy", metavar=POLICY_WORDS, show_default="one that fits the model", help="how to decode: see jaxdlm policies"
)
cache = option("--cache", default="none", metavar=POLICY_WORDS, help="key/value cache")
seed = option("--seed", type=SEED, default=0, metavar="S", help="seed of all randomness")
raw = flag("--raw", help="do not pass prompts through the chat template")
chatting = (
    option("--system", metavar="TEXT", help="a system message for chats without one"),
    option("--tools", metavar="FILE", help="a JSON list of functions that the chat template shows"),
    option("--chat-template-kwargs", metavar="JSON", help='further variables of it, as {"enable_thinking": false}'),
)
stop = option("--stop", multiple=True, metavar="TEXT", help="end answers there, too (again for several)")
rows_per_program = option(
    "--rows-per-program", type=click.INT, metavar="R", show_default="any number",
    help="rows of each program; results then follow from it on every platform",
)  # fmt: skip
no_stop = flag("--no-stop", help="go on behind an end of text, as the papers count forwards")


def stopping(words: Sequence[str], never: bool) -> bool | list[str]:
    """`stop=` of a decode, out of the two options."""
    if words and never:
        raise InputError("--stop and --no-stop exclude each other: give one of them")
    return False if never else list(words) or True


languages = (
    option("--choices", metavar="A,B,...", help="the answer is one of these texts"),
    option("--regex", metavar="PATTERN", help="the answer matches a regular expression as a whole"),
    option("--json-schema", metavar="FILE", help="the answer is JSON of a schema"),
    flag("--any-json", help="the answer is JSON"),
    option("--lark", metavar="FILE", help="the answer is a sentence of a context-free grammar of Lark"),
    option(
        "--depth",
        type=DEPTH,
        default="usual",
        metavar="N",
        show_default="2 of a schema, else 3",
        help="how deep JSON or sentences may nest; none: without bound (extra grammar)",
    ),
)


def language(
    choices: str | None, regex: str | None, json_schema: str | None, any_json: bool, lark: str | None, depth: Any = "usual"
) -> dict[str, Any]:  # fmt: skip
    """The languages that the options ask for, as arguments of a decode."""
    from jaxdlm.structured import nested

    stated = {
        "choices": None if choices is None else choices.split(","), "regex": regex,
        "json_schema": _content(json_schema, "--json-schema"), "json": any_json or None, "lark": _content(lark, "--lark"),
    }  # fmt: skip
    return dict(nested(one, depth) for one in stated.items() if one[1] is not None)


def _content(path: str | None, name: str) -> str | None:
    from jaxdlm.checkpoint.files import read_text

    file = None if path is None else argument.path(path, name)
    if file is not None and not file.is_file():
        raise InputError(f"{name} {path} is no file: give the path of one that holds the text")
    return None if file is None else read_text(file, file.parent)


def chat(system: str | None, tools: str | None, chat_template_kwargs: str | None) -> dict[str, Any]:
    """What the options say of chats, as arguments of a decode."""
    from jaxdlm.messages import read_form

    stated = {
        "system": system, "tools": _json(_content(tools, "--tools"), f"--tools {tools}"),
        "chat_template_kwargs": _json(chat_template_kwargs, "--chat-template-kwargs"),
    }  # fmt: skip
    stated = {name: value for name, value in stated.items() if value is not None}
    read_form(**stated)
    return stated


def _json(text: str | None, name: str) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no JSON ({' '.join(str(error).split())[:80]}): mend it") from None


def max_new(default: str, type: click.ParamType = click.INT) -> Callable[..., Any]:
    return option("--max-new", type=type, metavar="N", show_default=default, help="columns to generate")


def block(default: str, type: click.ParamType = click.INT) -> Callable[..., Any]:
    return option("--block", type=type, metavar="N", show_default=default, help="block length")


def json_flag(help: str) -> Callable[..., Any]:
    return flag("--json", "as_json", help=help)


def decoding(number: click.ParamType, *more: Callable[..., Any]) -> Callable[[Any], Any]:
    """Model, policy, cache, shape and seed of a decode; `number` reads the columns."""
    lengths = max_new(f"the model's own, else {MAX_NEW}", number), block("the model's own, else that of decode", number)
    return section("Decoding", model, policy, cache, *lengths, *more, *languages, stop, no_stop, seed, raw, *chatting)
