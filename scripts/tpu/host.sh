#!/usr/bin/env bash
# Runs on every TPU host of a job: installs jaxdlm, keeps compiled programs on the bucket, answers the prompts.
#
#   BUCKET=gs://mine INPUT=gs://mine/prompts.jsonl OUTPUT=gs://mine/answers MODEL=GSAI-ML/LLaDA-8B-Instruct \
#       JAXDLM=gs://mine/jaxdlm_decode-0.1.0-py3-none-any.whl bash host.sh
#
# After a preemption the same command goes on where the last one stopped; more arguments go to jaxdlm batch.
set -euo pipefail

: "${BUCKET:?a bucket of yours, as gs://mine}"
: "${INPUT:?the prompts, as gs://mine/prompts.jsonl}"
: "${OUTPUT:?a folder for the answers, as gs://mine/answers}"
: "${MODEL:?a Hub id or a converted folder}"
: "${JAXDLM:?where pip finds this project: a wheel (a path, https:// or gs://), a checkout, or git+https://...}"
JAX="${JAX:-jax[tpu]==0.10.2}" # with its libtpu the programs of these recipes were compiled

python3 -m venv "$HOME/jaxdlm-venv" # TPU images bring a Python of their own, which stays as it is
# shellcheck disable=SC1091
source "$HOME/jaxdlm-venv/bin/activate"
python -m pip install --quiet "$JAX" gcsfs
if [[ "$JAXDLM" == gs://* ]]; then
    python -c 'import gcsfs, sys; gcsfs.GCSFileSystem().get(*sys.argv[1:])' "$JAXDLM" "$HOME/${JAXDLM##*/}"
    JAXDLM="$HOME/${JAXDLM##*/}"
fi
python -m pip install --quiet "$JAXDLM"

export JAX_COMPILATION_CACHE_DIR="$BUCKET/jax-cache" # every later host and run reads the compiled program from here
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1

# exec: SIGTERM reaches jaxdlm itself, which then writes what is finished and leaves within 20 s.
# Without MESH jaxdlm chooses the mesh with the fewest chips per copy of the weights that fits.
exec jaxdlm batch "$INPUT" --output "$OUTPUT" --model "$MODEL" --policy "${POLICY:-threshold}" \
    --cache "${CACHE:-dual}" --slots "${SLOTS:-16}" ${MESH:+--mesh "$MESH"} --distributed "$@"
