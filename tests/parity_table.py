"""The tables of docs/convert.md, measured: python -m tests.parity_table [--write]. Takes minutes; needs transformers.

The first: each family in its hub layout with loud random weights, a ragged batch of two rows of 37 tokens and the second row
alone, float32, against a class of transformers under the family's own mask. The second: each layout of quantised weights
against the formula that its codes were packed from.
"""

import pathlib
import sys
import tempfile

import numpy as np

from jaxdlm.checkpoint import open_folder
from jaxdlm.checkpoint.tensors import open_tensors
from tests.checkpoint.packers import LAYOUTS, folders
from tests.models import oracles

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "convert.md"
MARKS = {
    name: (f"<!-- {name}: python -m tests.parity_table --write -->\n", f"<!-- end of {name} -->")
    for name in ("families", "layouts")
}
HOW = {
    "full": "full",
    "causal": "causal",
    "block_causal": "block {}",
    "prefix_canvas": "the causal prefix of canvases of {}",
}


def families() -> str:
    lines = ["| family | oracle | mask | largest difference | of the row alone |", "|---|---|---|--:|--:|"]
    data = oracles.batch()
    for name, recipe in oracles.RECIPES.items():
        case = oracles.case(name)
        ours, theirs = oracles.our_logits(case, data), oracles.oracle_logits(case, data)
        one = oracles.Batch(*(part[1:, oracles.PADDED :] for part in (data.tokens, data.position, data.valid)))
        alone = np.abs(oracles.our_logits(case, one)[0] - theirs[1, oracles.PADDED :]).max()
        mask = HOW[case.config.attention].format(case.config.block_size)
        oracles.assert_close(ours[data.valid], theirs[data.valid])
        lines.append(
            f"| {_named(name)} | `{recipe.oracle}` | {mask} | {np.abs(ours - theirs)[data.valid].max():.1e} | {alone:.1e} |"
        )
    return "\n".join(lines) + "\n"


def _named(name: str) -> str:
    family, _, rest = name.partition(" ")
    return f"`{family}`" + (f", {rest}" if rest else "")


def layouts() -> str:
    lines = ["| layout | `quantization_config` | largest difference |", "|---|---|--:|"]
    for name, (_, settings) in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            packed, plain = folders(pathlib.Path(folder), name)
            ours, formula = open_folder(packed).tensors, open_tensors(plain)
            worst = max(float(np.abs(ours.read(key) - formula.read(key)).max()) for key in formula.infos)
        method = settings["quant_method"] + (f", {settings['format']}" if "format" in settings else "")
        lines.append(f"| {name} | `{method}` | {worst:.1e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    for name, table in (("layouts", layouts()), ("families", families())):
        print(table)
        if "--write" in sys.argv:
            begin, end = MARKS[name]
            before, _, rest = PAGE.read_text().partition(begin)
            PAGE.write_text(before + begin + table + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
