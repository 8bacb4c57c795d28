"""Makes the folder of a model out of a delta and the model that it was made of.

    python scripts/delta.py smollm2 DIR/delta.safetensors OUT

OUT is a folder that `jaxdlm.load` reads.
"""

import argparse
import sys
from pathlib import Path

from jaxdlm.errors import InputError
from jaxdlm.train import delta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as in jaxdlm.load: a name, a folder or a GGUF file")
    parser.add_argument("delta", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    try:
        delta.export(args.model, args.delta, args.output)
    except InputError as error:
        print(f"delta.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
