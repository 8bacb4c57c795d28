"""Trains an embedded model: `python scripts/train.py --recipe tiny --output DIR [--minutes M | --steps N] [--resume]`.

Writes DIR/curve.jsonl (loss), DIR/checkpoint (resumes) and, at the end, DIR/model: a folder that `jaxdlm.load` reads.
"""

import argparse
import shutil
import sys
from pathlib import Path

from jaxdlm.train.export import curve_picture, export, rounded
from jaxdlm.train.measure import gates, tables
from jaxdlm.train.recipes.tiny import RECIPES, recipe
from jaxdlm.train.step import Budget, train


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train an embedded model.")
    parser.add_argument("--recipe", default="tiny", choices=sorted(RECIPES))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="stop after this much wall clock; the schedule follows it")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from DIR/checkpoint")
    parser.add_argument("--measure", type=int, default=200, help="held-out examples per task; 0: none")
    parser.add_argument("--smoke", action="store_true", help="copy and shuffle only, about a minute")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    chosen = recipe("smoke" if args.smoke else args.recipe, args.seed)
    budget = Budget(args.steps or chosen.steps, args.minutes)
    state = train(chosen, args.output, budget, resume=args.resume)
    state = state._replace(params=rounded(state.params))  # what is shipped is what is measured
    table = tables(chosen.model, state.params, args.measure) if args.measure else {}
    folder = args.output / "model"
    export(chosen, state, folder, accuracy=table, gates=gates(table))
    shutil.copy(args.output / "curve.jsonl", folder / "curve.jsonl")
    (folder / "curve.svg").write_text(curve_picture(args.output / "curve.jsonl"))
    print(f"{chosen.name}: {int(state.step)} steps, {float(state.tokens):.3g} tokens -> {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
