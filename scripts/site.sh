#!/usr/bin/env bash
# The documentation site in .cache/site: bash scripts/site.sh builds it, every warning an error; bash scripts/site.sh serve
# shows it at http://127.0.0.1:8000 while you write.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment docs

export JAX_PLATFORMS=cpu NO_MKDOCS_2_WARNING=1
if [ "$#" = 0 ]; then set -- build --strict; fi
exec python -m mkdocs "$1" --config-file docs/site/mkdocs.yml "${@:2}"
