#!/usr/bin/env bash
# All tests: bash scripts/test.sh [pytest arguments]. Without those over half a second or so: bash scripts/test.sh -m "not slow"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment dev

workers="${JAXDLM_TEST_WORKERS:-$(python -c 'import os; print(max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)))')}"
export JAX_PLATFORMS=cpu
exec python -m pytest --numprocesses "$workers" --dist worksteal "$@" </dev/null
