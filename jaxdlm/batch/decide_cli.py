"""`jaxdlm decide`: a file of questions into answers with probabilities, or labelled ones into a calibration."""

import json
import sys
from typing import Any

import click

from jaxdlm import argument, command
from jaxdlm.command import BAD_INPUT, COUNT, FAILED, OK, ROWS, SECONDS, Command, Number, flag, option, section
from jaxdlm.errors import InputError

CLOSE = Number(argument.real(0, 1000), click.FLOAT)
LAWS = ("auto", "slot", "chain", "product", "pseudo", "anyorder")


@click.command(
    cls=Command,
    epilog="""\b
    Examples:
      jaxdlm decide questions.jsonl --model smollm2 > answers.jsonl
      jaxdlm decide questions.jsonl --model smollm2 --output answers/
      jaxdlm decide labelled.jsonl --model smollm2 --calibrate --output cal.json""",
)
@click.argument("input", metavar="FILE")
@section(
    "Files",
    option("--output", metavar="DIR", show_default="rows on stdout", help="folder or URL of a resumable job's results"),
    flag("--calibrate", help="fit temperatures on rows that have answers, into the file --output"),
    flag("--self-check", help="read rows of FILE in other orders, alone and in other shapes, and say what changes"),
    flag("--balance", help="with --calibrate: take labels to be balanced, and divide by the mean answer"),
    option("--calibration", metavar="CAL", help="a file that --calibrate has written"),
    option("--shard-rows", type=COUNT, metavar="N", show_default="1000", help="with --output: rows per output object"),
    option("--flush", type=SECONDS, default=30.0, metavar="SECONDS", help="with --output: how often rows are saved"),
    flag("--new-run", help="with --output: remove what another job has left there"),
    flag("--quiet", help="no progress on stderr"),
)
@section(
    "Reading",
    command.model,
    option("--read", type=click.Choice(("label", "text")), default="label", help="labels of a listing, or the words"),
    option("--law", type=click.Choice(LAWS), default="auto", metavar="L", help=", ".join(LAWS)),
    flag("--joint", help="all questions of a row in one reply, every answer open"),
    flag("--joint-chain", help="likewise, by the law of all answers together"),
    flag("--sequential", help="one after the other in one reply, each given the answers before"),
    option("--orders", default="1", metavar="N", help="listings to pool: a number, reverse or cyclic"),
    option("--pool", type=click.Choice(("log", "mean")), default="log", help="of listings: mean of log p, or of p"),
    option(
        "--order", metavar="O", show_default="left to right", help="of columns under --law chain: confidence, or 2,1,0"
    ),
    option("--draws", default="auto", metavar="M", help="of the noise of a model with uniform noise: auto or a number"),
    option(
        "--noise", type=click.Choice(("row", "content")), default="row", help="by a row's id, or by what it is asked"
    ),
    option("--steps", type=COUNT, default=1, metavar="N", help="forwards of a model with uniform noise"),
    option(
        "--reread",
        type=Number(argument.real(0, 1000), click.FLOAT),
        default=0.0,
        metavar="X",
        help="closer calls again, in float32",
    ),
    command.seed,
    option("--template", "templates", multiple=True, metavar="TEXT", help="prompt with {state} and {instructions}"),
    option("--prior", metavar="G", show_default="none", help="contextual, or its strength from 0 to 1"),
    option("--temperature", type=click.FLOAT, default=1.0, metavar="T", help="of the probabilities"),
    option(
        "--cfg", type=Number(argument.real(0, 1000), click.FLOAT), default=0.0, metavar="W", help="guidance of labels"
    ),
    option("--width", type=COUNT, metavar="W", show_default="whole blocks", help="open columns under --read text"),
    option("--confidence", type=click.Choice(("jev", "mass", "entropy")), default="jev", help="what confidence means"),
    option("--max-contexts", type=COUNT, default=4096, metavar="N", help="sequences that a question may read"),
    option(
        "--tolerance", type=Number(argument.real(0, 1), click.FLOAT), default=0.01, metavar="P", help="left out above"
    ),
    option(
        "--tokenisations",
        type=click.Choice(("canonical", "all")),
        default="canonical",
        help="of words: the sum over all",
    ),
    option("--batch", type=ROWS, default=16, metavar="R", help="sequences of each program"),
)
def decide(
    input: str, output: str | None, calibrate: bool, self_check: bool, balance: bool, calibration: str | None,
    shard_rows: int | None, flush: float, new_run: bool, quiet: bool, model: str, orders: str, order: str | None, draws: str,
    templates: tuple[str, ...], prior: str | None, **rest: Any,
) -> int:  # fmt: skip
    """Answer typed questions with probabilities; FILE has one JSON object per line, - is stdin.

    A row has prompt, messages, tokens, state or input, and questions: a list as OpenAI's /v1/decisions has it, or a map
    as TypeSafe's /v1/systemone. Batch lines for either run as they are. A row that cannot be read is its own error row.
    """
    import jaxdlm as jd
    from jaxdlm.batch.decisions import Readers, stdin_rows, stream, told
    from jaxdlm.batch.source import scan, source

    _check(input, output, calibrate, balance, calibration, shard_rows, new_run)
    if self_check and (output is not None or calibrate):
        raise InputError("--self-check prints what it measures, and no answers: leave --output and --calibrate out")
    if calibrate and (prior is not None or rest["temperature"] != 1):
        raise InputError("--calibrate fits prior and temperature: leave --prior and --temperature out")
    if rest.pop("joint_chain"):
        if rest["joint"]:
            raise InputError("--joint and --joint-chain exclude each other: leave one out")
        rest["joint"] = "chain"
    settings = rest | {
        "orders": _count(orders), "draws": _count(draws), "templates": list(templates) or None,
        "prior": _prior(prior), "calibration": calibration, "order": _columns(order),
    }  # fmt: skip
    index = None if input == "-" else scan(input)
    lm = jd.load(model)
    readers = Readers(lm, settings)
    if calibrate:
        return _calibrated(lm, readers, input, str(output), balance)
    if output is not None:
        from jaxdlm.batch.decide_job import decide_job

        more = {"shard_rows": shard_rows, "flush": flush, "new_run": new_run, "quiet": quiet}
        return decide_job(input, output, lm, readers, **more).run()
    raws = stdin_rows() if index is None else source(input).rows()
    if self_check:
        return _checked(raws, lm, settings)

    def write(data: bytes) -> None:
        print(data.decode("utf-8"), end="", flush=True)

    refused, broken = stream(raws, readers, write, {} if index is None else index.duplicates)
    told(refused, broken)
    return FAILED if broken else BAD_INPUT if refused else OK


def _check(
    input: str, output: str | None, calibrate: bool, balance: bool, calibration: str | None, shard_rows: int | None,
    new_run: bool,
) -> None:  # fmt: skip
    """What goes together, before a model is loaded."""
    if calibrate and output is None:
        raise InputError("--calibrate writes a file: add --output FILE.json")
    if calibrate and calibration is not None:
        raise InputError("--calibrate and --calibration exclude each other: leave one out")
    if balance and not calibrate:
        raise InputError("--balance means nothing without --calibrate: leave it out, or add that")
    alone = output is None or calibrate
    for name, value in (("--shard-rows", shard_rows), ("--new-run", new_run or None)):
        if alone and value is not None:
            raise InputError(f"{name} belongs to a job with --output DIR: leave it out, or add that")
    if input == "-" and output is not None:
        raise InputError("--output reads its input more than once, and stdin cannot: write it to a file")


def _count(word: str) -> Any:
    return int(word) if word.isdecimal() else word


def _columns(words: str | None) -> Any:
    """confidence, or columns."""
    parts = [] if words is None else [word.strip() for word in words.split(",")]
    return [int(part) for part in parts] if parts and all(part.isdecimal() for part in parts) else words


def _checked(raws: Any, lm: Any, settings: Any) -> int:
    """Prints what a self-check measures; a failure where bits differ that must not."""
    from jaxdlm.batch.self_check import self_check

    told = self_check(raws, lm, settings)
    print(json.dumps(told))
    if told["differing"]:
        print(
            f"jaxdlm: {told['differing']} of {told['compared']} decisions changed with the rows beside them",
            file=sys.stderr,
        )
    return FAILED if told["differing"] else OK


def _prior(prior: str | None) -> Any:
    if prior is None or prior == "contextual":
        return prior
    try:
        return float(prior)
    except ValueError:
        raise InputError(f"--prior {argument.shown(prior)}: must be contextual, or a number from 0 to 1") from None


def _calibrated(lm: Any, readers: Any, input: str, output: str, balance: bool) -> int:
    """Fits, writes the file, and prints how good the answers were and are."""
    from jaxdlm.batch.decisions import labelled
    from jaxdlm.batch.source import source
    from jaxdlm.decisions import calibrate

    pairs = [labelled(raw, readers) for raw in source(input).rows()]
    rows, truths = [row.asked for row, _ in pairs], [truth for _, truth in pairs]
    fitted = calibrate.fit(lm, readers.plain.answer(rows), truths, prior=balance)
    fitted.save(output)
    for fit in fitted.fits.values():
        told = {"question": fit.name, "n": fit.n, "temperature": fit.temperature, "bias": fit.bias,
                "nll_before": fit.nll_before, "nll_after": fit.nll_after, "at_bound": fit.at_bound}  # fmt: skip
        print(json.dumps(told))
    print(f"# wrote {output}", file=sys.stderr)
    return OK
