#!/usr/bin/env bash
# Runs a config on a Cloud TPU that may be taken away: a queued resource of spot TPUs, made again and
# given the same command again, until the command has finished. Nothing is lost where config.workdir
# is a folder on gs://. Run it from a clone, on a machine that stays; giving it again goes on.
#
#   NAME=mine ZONE=us-east5-b TYPE=v6e-16 scripts/tpu.sh \
#     --config=pretrain:1b --config.workdir=gs://bucket/runs/mine
#
# NAME, ZONE, TYPE   of the queued resource, which has one node of that name; TYPE is v5litepod-16, ...
# VERSION            the software of the VMs (default v2-alpha-tpuv6e)
# PROVISION          flags that say how they are paid for (default --spot)
# EXTRAS             of the package (default tpu,gcs,log)
# KEEP               not empty: the TPU is not deleted at the end
# POLL, TRIES        seconds between two looks (30); failures of the command in a row on a TPU that is
#                    still there before the script gives up (3)
#
# It ends with 0 when the command has finished, and with another status after a mistake that would
# come again on the same command (exit status 1 of llm_jax).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${NAME:?is not set: a name for the TPU}" "${ZONE:?is not set: where, as us-east5-b}"
: "${TYPE:?is not set: which, as v6e-16}"
VERSION=${VERSION:-v2-alpha-tpuv6e} PROVISION=${PROVISION:---spot} EXTRAS=${EXTRAS:-tpu,gcs,log}
POLL=${POLL:-30} TRIES=${TRIES:-3}
(($#)) || { echo 'scripts/tpu.sh: give the options of llm_jax, as --config=pretrain:1b' >&2; exit 2; }

say() { printf '%s %s: %s\n' "$(date +%T)" "$NAME" "$*" >&2; }

state() {  # ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; NONE where there is no such resource
  gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
    --format='value(state.state)' 2>/dev/null || echo NONE
}

node() {  # READY, PREEMPTED, ...: it is taken away before the resource says so
  gcloud compute tpus tpu-vm describe "$NAME" --zone="$ZONE" --format='value(state)' 2>/dev/null ||
    echo NONE
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet || true
}

create() {
  local provision
  read -ra provision <<<"$PROVISION"
  gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" "${provision[@]}"
}

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

install() {  # the package of this clone, on all workers, whose own Python may be too old for it
  local folder wheel
  folder=$(mktemp -d)
  python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" .
  wheel=$(basename "$folder"/llm_jax-*.whl)
  gcloud compute tpus tpu-vm scp "$folder/$wheel" "$NAME:" --zone="$ZONE" --worker=all
  rm -r "$folder"
  everywhere "python3 -m pip install --user --quiet uv &&
    python3 -m uv venv --quiet --allow-existing --python 3.12 llm &&
    python3 -m uv pip install --quiet --python llm/bin/python './${wheel}[$EXTRAS]'"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
command=llm/bin/llm_jax
for word in "$@"; do command+=" $(printf '%q' "$word")"; done
ready='' failures=0
while true; do
  case $(state) in
    NONE)
      say 'asking for it'
      if ! create && [[ $(state) == NONE ]]; then exit 1; fi
      ready=''
      ;;
    SUSPENDED | SUSPENDING | FAILED)
      say 'taken away; asking for it again'
      delete
      ready='' failures=0
      ;;
    ACTIVE)
      if [[ $(node) != READY ]]; then
        say 'its node is not there; asking for it again'
        delete
        ready=''
        sleep "$POLL"
        continue
      fi
      if [[ -z $ready ]]; then
        say 'there; installing'
        if ! install; then sleep "$POLL"; continue; fi
        ready=yes
      fi
      say "$command"
      status=0
      everywhere "$command || { status=\$?; echo llm_jax status \$status; exit \$status; }" |
        tee "$log" || status=$?
      if ((status == 0)); then
        say 'finished'
        [[ -n ${KEEP:-} ]] || delete
        exit 0
      fi
      if [[ $(state) == ACTIVE && $(node) == READY ]]; then
        failures=$((failures + 1))
        if grep -q 'llm_jax status [12]$' "$log" || ((failures == TRIES)); then
          say "failed with status $status, and the TPU stays. To delete it:" \
            "gcloud compute tpus queued-resources delete $NAME --zone=$ZONE --force"
          exit "$status"
        fi
      fi
      ;;
    *) failures=0 ;;  # it is on its way
  esac
  sleep "$POLL"
done
