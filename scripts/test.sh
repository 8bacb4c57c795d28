#!/usr/bin/env bash
# The tests: bash scripts/test.sh [pytest arguments]. Slow tests too: bash scripts/test.sh -m ""
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment dev

workers="${JAXDLM_TEST_WORKERS:-$(python -c 'import os; print(max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)))')}"
export JAX_PLATFORMS=cpu
exec python -m pytest --numprocesses "$workers" --dist worksteal -m "not slow" "$@" </dev/null
