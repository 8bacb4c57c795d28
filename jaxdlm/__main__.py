"""`python -m jaxdlm` is the command line."""

import sys

from jaxdlm._start import jaxdlm

if __name__ == "__main__":
    sys.exit(jaxdlm())
