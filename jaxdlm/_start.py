"""Where the commands begin: what takes a while is imported where an interrupt is one line, as it is later on."""

import importlib
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def run(module: str, prog: str, argv: Sequence[str] | None = None) -> int:
    """The exit status of the `main` of a module."""
    try:
        main = importlib.import_module(module).main
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return main(argv)


def jaxdlm() -> int:
    return run("jaxdlm.cli", "jaxdlm")


def convert() -> int:
    return run("checkpoints_convert.__main__", "checkpoints_convert")
