"""Trains an embedded model, or a part that speeds one up.

    python scripts/train.py --recipe tiny --output DIR [--minutes M | --steps N] [--resume]
    python scripts/train.py --recipe learn2pd --output DIR    (length_prior likewise)
    python scripts/train.py --recipe specdec_pp --model tiny-ar --draft tiny-draft --output DIR
    python scripts/train.py --recipe s2d --model tiny-draft --output DIR
    python scripts/train.py --recipe ppd --model tiny-ar --output DIR    (eagle2, eagle3, dflash, lud, spec_vlm likewise)
    python scripts/train.py --recipe adadec --model tiny-ar --output DIR
    python scripts/train.py --recipe distilled --model tiny-ar --output DIR [--minutes M] [--resume]
    python scripts/train.py --recipe dparallel --output DIR [--model FOLDER --prompts FILE --mesh data=2,tensor=4]
    python scripts/train.py --recipe calibrated --model FOLDER --prompts FILE --output DIR
    python scripts/train.py --recipe smollm2-block --output DIR [--until data|train|export|figures]

A model recipe writes DIR/curve.jsonl (loss), DIR/checkpoint (resumes) and, at the end, DIR/model: a folder that
`jaxdlm.load` reads, and so do `dparallel` and `calibrated`. `learn2pd`, `specdec_pp`, `s2d`, `ppd`, `eagle2`, `eagle3`,
`dflash`, `lud`, `spec_vlm` (a head for eagle2), `distilled` and `length_prior` write DIR/NAME.safetensors, its record and its
curve; `adadec` and `layer_reuse` write DIR/NAME.json, and the --prompts of `adadec` have an "answer" beside each "prompt", those
of `calibrated` "candidates" and their "scores". `smollm2-block` adapts an autoregressive chat model to block diffusion
(docs/training.md): the same command goes on where it was cut.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdlm._load import EMBEDDED, load
from jaxdlm.errors import InputError
from jaxdlm.sharding import make_mesh
from jaxdlm.train import prompts
from jaxdlm.train.export import curve_picture, export, rounded
from jaxdlm.train.measure import gates, tables
from jaxdlm.train.recipes import (
    adadec,
    block,
    calibrated,
    dflash,
    distilled,
    dparallel,
    eagle,
    layer_reuse,
    learn2pd,
    length_prior,
    lud,
    ppd,
    s2d,
    spec_vlm,
    specdec_pp,
)
from jaxdlm.train.recipes.tiny import RECIPES, recipe
from jaxdlm.train.step import Budget, train

ADAPTED = "smollm2-block"
# what is trained for a model that is there already, and the options that it takes besides prompts and a seed
PARTS: dict[str, tuple[Callable[..., dict[str, Any]], tuple[str, ...]]] = {
    "learn2pd": (learn2pd.run, ("rows", "canvas", "steps")),
    "dparallel": (dparallel.run, ("rows", "canvas", "steps", "minutes", "rank")),
    "specdec_pp": (specdec_pp.run, ("rows", "canvas", "steps", "draft", "temperature")),
    "s2d": (s2d.run, ("steps", "minutes")),
    "ppd": (ppd.run, ("rows", "canvas", "steps")),
    "eagle2": (eagle.eagle2, ("rows", "canvas", "steps")),
    "eagle3": (eagle.eagle3, ("rows", "canvas", "steps")),
    "spec_vlm": (spec_vlm.run, ("rows", "canvas", "steps")),
    "dflash": (dflash.run, ("rows", "canvas", "steps")),
    "lud": (lud.run, ("rows", "canvas", "steps", "rank")),
    "adadec": (adadec.run, ("rows", "canvas")),
    "layer_reuse": (layer_reuse.run, ("rows", "canvas", "steps")),
    "length_prior": (length_prior.run, ("rows", "canvas", "steps")),
    "calibrated": (calibrated.run, ("steps", "minutes", "rank", "resume")),
    "distilled": (distilled.run, ("rows", "canvas", "steps", "minutes", "temperature", "resume")),
}
# what stands beside each prompt of --prompts
READS: dict[str, Callable[[Path], Any]] = {"adadec": prompts.read_solved, "calibrated": prompts.read_scored}


# what each kind of recipe takes besides --output and --seed
TAKES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(RECIPES, ("minutes", "steps", "resume", "measure", "smoke")),
    **{name: ("model", "prompts", "mesh", *options) for name, (_, options) in PARTS.items()},
    ADAPTED: (
        "model", "prompts", "rows", "canvas", "steps", "minutes", "data_minutes", "measure", "rank", "block", "batch",
        "accumulate", "slots", "held_out", "mask", "until",
    ),
}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny", choices=sorted(TAKES))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="stop after this much wall clock; the schedule follows it")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", default=None, help="go on from DIR/checkpoint")
    parser.add_argument("--measure", type=int, help="held-out examples per task (default 200); 0: none")
    parser.add_argument("--smoke", action="store_true", default=None, help="copy and shuffle only, about a minute")
    parser.add_argument("--model", help="what a part is trained for: as in jaxdlm.load; default tiny, or smollm2")
    parser.add_argument("--prompts", type=Path, help="JSONL with a 'prompt' per line; default: the benchmark's own")
    parser.add_argument("--mesh", help="spread the model over devices, for example data=2,tensor=4")
    parser.add_argument("--rows", type=int, help="prompts to use; default: the recipe's")
    parser.add_argument("--canvas", type=int, help="columns that --prompts are answered on; default 256, or 192")
    parser.add_argument("--draft", help="the draft whose head specdec_pp trains; --model is its target")
    parser.add_argument("--temperature", type=float, help="specdec_pp: of both models, 0; distilled: of the teacher, 1")
    parser.add_argument(
        "--rank", type=int, help="of the low-rank update; 0: all weights; default 32 with --prompts, or 64"
    )
    group = parser.add_argument_group(ADAPTED)
    group.add_argument("--until", choices=block.PHASES, help="the last phase to run; default: all")
    group.add_argument("--data-minutes", type=float, help="after which no further part of the data is begun; default 3")
    group.add_argument("--block", type=int, help="columns of a block; default 32")
    group.add_argument("--batch", type=int, help="answers per step; default 64")
    group.add_argument("--accumulate", type=int, help="steps whose gradients move the weights once; default 2")
    group.add_argument("--slots", type=int, help="answers that are written at the same time; default 512")
    group.add_argument("--held-out", type=int, help="prompts that are answered and not trained on; default 512")
    group.add_argument("--mask", help="the token that becomes the mask; default <empty_output>")
    return parser.parse_args()


def stated(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given. Raises InputError for one that the recipe does not take."""
    options = {name: value for name, value in vars(args).items() if value is not None}
    for name in options.keys() - {"recipe", "output", "seed", *TAKES[args.recipe]}:
        raise InputError(f"--{name.replace('_', '-')} means nothing to --recipe {args.recipe}: leave it out")
    return options


def mesh_of(text: str | None) -> Any:
    """ "data=2,tensor=4" as a mesh over the devices that are there."""
    if text is None:
        return None
    try:
        axes = {name: int(size) for name, size in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise InputError(f"--mesh {text!r}: write it as data=2,tensor=4") from None
    return make_mesh(axes)


def train_part(args: argparse.Namespace) -> None:
    function, names = PARTS[args.recipe]
    model = args.model or "tiny"
    if args.prompts is None and model not in EMBEDDED:
        raise InputError(f"--model {model} needs --prompts FILE: the benchmark's words are the embedded models'")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.prompts is not None:
        options["texts"] = READS.get(args.recipe, prompts.read)(args.prompts)
    if args.recipe in ("dparallel", "calibrated"):
        options["source"] = None if model in EMBEDDED else Path(model)
    if args.recipe == "dparallel":
        options["mesh"] = mesh_of(args.mesh)
    record = function(load(model, mesh=mesh_of(args.mesh)), args.output, seed=args.seed, **options)
    print(f"{args.recipe} for {model}: {record} -> {args.output}", file=sys.stderr)


def train_adapted(args: argparse.Namespace) -> None:
    options = {name: value for name, value in stated(args).items() if name not in ("recipe", "output", "prompts")}
    if args.prompts is not None:
        options["texts"] = prompts.read(args.prompts)
    print(f"{args.recipe}: {block.run(args.output, **options)} -> {args.output}", file=sys.stderr)


def train_model(args: argparse.Namespace) -> None:
    chosen = recipe("smoke" if args.smoke else args.recipe, args.seed)
    budget = Budget(args.steps or chosen.steps, args.minutes)
    state = train(chosen, args.output, budget, resume=bool(args.resume))
    state = state._replace(params=rounded(state.params))  # what is shipped is what is measured
    measure = 200 if args.measure is None else args.measure
    table = tables(chosen.model, state.params, measure) if measure else {}
    folder = args.output / "model"
    export(chosen, state, folder, accuracy=table, gates=gates(table))
    shutil.copy(args.output / "curve.jsonl", folder / "curve.jsonl")
    (folder / "curve.svg").write_text(curve_picture(args.output / "curve.jsonl"))
    print(f"{chosen.name}: {int(state.step)} steps, {float(state.tokens):.3g} tokens -> {folder}", file=sys.stderr)


def main() -> None:
    args = arguments()
    try:
        stated(args)
        kind = train_adapted if args.recipe == ADAPTED else train_part if args.recipe in PARTS else train_model
        kind(args)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
