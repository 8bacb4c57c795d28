#!/usr/bin/env bash
# The same job through XPK, which writes the JobSet itself. DRY_RUN=1 lets xpk print what it would do.
#
#   BUCKET=... INPUT=... OUTPUT=... MODEL=... CLUSTER=tpus ZONE=us-west4-a bash scripts/tpu/xpk.sh
set -euo pipefail

: "${BUCKET:?a bucket of yours, as gs://mine}" "${INPUT:?the prompts}" "${OUTPUT:?a folder for the answers}"
: "${MODEL:?a Hub id or a converted folder}" "${CLUSTER:?made by xpk cluster create}" "${ZONE:?its zone}"

job="python -m pip install --quiet 'jax[tpu]' gcsfs ${JAXDLM:-jaxdlm} && \
exec jaxdlm batch $(printf '%q' "$INPUT") --output $(printf '%q' "$OUTPUT") --model $(printf '%q' "$MODEL") \
--policy ${POLICY:-threshold} --cache ${CACHE:-none} --distributed"

xpk workload create ${DRY_RUN:+--dry-run} \
    --workload "${NAME:-jaxdlm}" --cluster "$CLUSTER" --zone "$ZONE" \
    --tpu-type "${TYPE:-v5litepod-16}" --num-slices 1 --max-restarts 1000 \
    --docker-image "${IMAGE:-python:3.12}" \
    --env "JAX_COMPILATION_CACHE_DIR=$BUCKET/jax-cache" \
    --command "$job"
