"""docs/results/denoising.svg, the picture of the README: one row of the embedded model, forward by forward.

python scripts/picture.py [PROMPT] [--policy NAME[,key=value...]] [--output FILE]
"""

import argparse
import io
import pathlib

from rich.console import Console
from rich.table import Table
from rich.terminal_theme import DIMMED_MONOKAI

import jaxdlm as jd
from jaxdlm import viz

FILE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "denoising.svg"
PROMPT = "shuffle : [ Gina , Noah , Dora , Erik ]"


def picture(prompt: str, policy: str) -> str:
    """An SVG of the canvas before the first forward and after each."""
    lm = jd.load("tiny")
    out = jd.decode(lm, prompt, policy=policy, max_new=16)
    drawn = viz.path(out, prompt=prompt)
    rows = Table.grid(padding=(0, 2))
    for step in range(drawn.forwards + 1):
        rows.add_row(f"[dim]forward {step:>2}[/]", viz.frame(drawn, step))
    console = Console(record=True, width=96, file=io.StringIO())
    console.print(f"[bold]>[/] {prompt}", highlight=False, markup=True)
    console.print(rows)
    console.print(viz.summary(drawn), style="dim", highlight=False)
    return console.export_svg(title=f"jaxdlm: {policy}", theme=DIMMED_MONOKAI, unique_id="denoising")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=PROMPT)
    parser.add_argument("--policy", default="threshold,tau=0.9")
    parser.add_argument("--output", type=pathlib.Path, default=FILE)
    args = parser.parse_args()
    args.output.write_text(picture(args.prompt, args.policy) + "\n")


if __name__ == "__main__":
    main()
