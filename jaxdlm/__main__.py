"""`python -m jaxdlm` is the command line."""

import sys

from jaxdlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
