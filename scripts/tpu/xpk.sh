#!/usr/bin/env bash
# The same job through XPK, which writes the JobSet itself. DRY_RUN=1 lets xpk print what it would do.
#
#   BUCKET=... INPUT=... OUTPUT=... MODEL=... JAXDLM=... CLUSTER=tpus ZONE=us-west4-a bash scripts/tpu/xpk.sh
#
# The settings are those of host.sh, which runs in the container.
set -euo pipefail

: "${BUCKET:?a bucket of yours, as gs://mine}" "${INPUT:?the prompts}" "${OUTPUT:?a folder for the answers}"
: "${MODEL:?a Hub id or a converted folder}" "${CLUSTER:?made by xpk cluster create}" "${ZONE:?its zone}"
: "${JAXDLM:?where pip finds this project: a wheel (https:// or gs://), or git+https://...}"
here="$(dirname "${BASH_SOURCE[0]}")"

# settings and script, quoted so that they survive the shells on the way
settings=""
for name in BUCKET INPUT OUTPUT MODEL JAXDLM POLICY CACHE SLOTS MESH JAX; do
    if [ -n "${!name:-}" ]; then
        settings+="$name=$(printf '%q' "${!name}") "
    fi
done
job="echo $(base64 <"$here/host.sh" | tr -d '\n') | base64 -d > host.sh && $settings exec bash host.sh"

xpk workload create ${DRY_RUN:+--dry-run} \
    --workload "${NAME:-jaxdlm}" --cluster "$CLUSTER" --zone "$ZONE" \
    --tpu-type "${TYPE:-v5litepod-16}" --num-slices 1 --max-restarts 1000 \
    --docker-image "${IMAGE:-python:3.12}" \
    --command "$job"
