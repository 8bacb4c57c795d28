#!/usr/bin/env bash
# Runs on every TPU host of a job: installs jaxdlm, keeps compiled programs on the bucket, answers the prompts.
#
#   BUCKET=gs://mine INPUT=gs://mine/prompts.jsonl OUTPUT=gs://mine/answers MODEL=GSAI-ML/LLaDA-8B-Instruct bash host.sh
#
# After a preemption the same command goes on where the last one stopped; more arguments go to jaxdlm batch.
set -euo pipefail

: "${BUCKET:?a bucket of yours, as gs://mine}"
: "${INPUT:?the prompts, as gs://mine/prompts.jsonl}"
: "${OUTPUT:?a folder for the answers, as gs://mine/answers}"
: "${MODEL:?a Hub id or a converted folder}"
JAXDLM="${JAXDLM:-jaxdlm}" # a pip requirement: a wheel on the bucket, a git URL, or the package

python3 -m venv "$HOME/jaxdlm-venv" # TPU images bring a Python of their own, which stays as it is
# shellcheck disable=SC1091
source "$HOME/jaxdlm-venv/bin/activate"
python -m pip install --quiet 'jax[tpu]' gcsfs "$JAXDLM"

export JAX_COMPILATION_CACHE_DIR="$BUCKET/jax-cache" # every later host and run reads the compiled program from here
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1

# exec: SIGTERM reaches jaxdlm itself, which then writes what is finished and leaves within 20 s
exec jaxdlm batch "$INPUT" --output "$OUTPUT" --model "$MODEL" --policy "${POLICY:-threshold}" \
    --cache "${CACHE:-none}" --slots "${SLOTS:-16}" --distributed "$@"
