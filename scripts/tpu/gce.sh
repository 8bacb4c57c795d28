#!/usr/bin/env bash
# A batch job on a spot TPU slice of Google Compute Engine, on all of its hosts, until it is done.
#
#   BUCKET=... INPUT=... OUTPUT=... MODEL=... JAXDLM=... ZONE=us-west4-a bash scripts/tpu/gce.sh
#
# A preempted slice is given back and asked for anew; host.sh resumes. DRY_RUN=1 prints the commands instead.
set -euo pipefail

NAME="${NAME:-jaxdlm}"
ZONE="${ZONE:?where the slice shall be, as us-west4-a}"
: "${JAXDLM:?where pip finds this project: a wheel (https:// or gs://), or git+https://...}"
TYPE="${TYPE:-v5litepod-16}"                    # v5litepod-16 is v5e:4x4; v5p-8 is v5p:2x2x1; v6e-8 is v6e:2x4
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"       # v2-alpha-tpuv5 for v5p, v2-alpha-tpuv6e for v6e
PAUSE="${PAUSE:-30}"                            # seconds between looks at a slice that is not there yet
here="$(dirname "${BASH_SOURCE[0]}")"

tpus() {
    local what=(gcloud compute tpus "$@" --zone="$ZONE")
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "${what[@]}" >&2
        echo >&2
    else
        "${what[@]}"
    fi
}

state() {
    if [ -n "${DRY_RUN:-}" ]; then
        echo ACTIVE
    else
        gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>/dev/null
    fi
}

give_back() {
    tpus queued-resources delete "$NAME" --force --quiet || true
}

# the settings of host.sh, quoted so that they survive two shells
settings=""
for name in BUCKET INPUT OUTPUT MODEL JAXDLM POLICY CACHE SLOTS MESH JAX; do
    if [ -n "${!name:-}" ]; then
        settings+="$name=$(printf '%q' "${!name}") "
    fi
done

trap give_back EXIT
while true; do
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
        --runtime-version="$RUNTIME" --spot
    until [ "$(state)" = ACTIVE ]; do
        case "$(state)" in
            FAILED | SUSPENDED) break ;;
        esac
        sleep "$PAUSE"
    done
    tpus tpu-vm scp "$here/host.sh" "$NAME": --worker=all &&
        tpus tpu-vm ssh "$NAME" --worker=all --command="$settings bash host.sh" && break
    if [ "$(state)" = ACTIVE ]; then
        echo "the job failed on a slice that is still there: its last lines say why" >&2
        exit 1
    fi
    give_back # preempted; the next slice resumes
    sleep "$PAUSE"
done
