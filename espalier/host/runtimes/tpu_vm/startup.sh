#!/usr/bin/env bash
# Runs as root on every worker of a TPU VM, at each boot: waits for work and does each once.
# Above this the launcher has set FOLDER (the TPU's in the bucket), WORKERS, HEARTBEAT, BARRIER
# and PAUSE. FOLDER/work names the run; all else is in the run's own folder.
set -u
export HOME=${HOME:-/root}
LOCAL=${ESPALIER_LOCAL:-/var/lib/espalier}
NAME=espalier-work
LABEL=org.espalier.managed=1
STOP_SECONDS=240

say() { printf 'espalier: %s\n' "$*" >&2; }

metadata() {
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

put() { printf '%s\n' "$1" | gcloud storage cp --quiet - "$2"; }

present() { gcloud storage cat "$1" >/dev/null 2>&1; }

# A command, up to five times; a registry or a bucket may well be busy.
patiently() {
  local factor
  for factor in 1 2 4 8; do
    "$@" && return
    sleep $((PAUSE * factor))
  done
  "$@"
}

# Which worker this is, and the address of the first.
who() {
  INDEX=0 HEAD=localhost
  ((WORKERS > 1)) || return 0
  local endpoints first
  INDEX=$(metadata agent-worker-number) && endpoints=$(metadata worker-network-endpoints) || return
  first=${endpoints%%,*}
  HEAD=${first##*:}
}

# The order, a line for each thing; fails while there is none.
read_work() {
  RUN='' IMAGE='' NUMBER='' INPUTS=() VARIABLES=()
  local line order
  order=$(gcloud storage cat "$FOLDER/work" 2>/dev/null) || return
  while IFS= read -r line; do
    case $line in
      run=*) RUN=${line#*=} ;;
      attempt=*) NUMBER=${line#*=} ;;
      image=*) IMAGE=${line#*=} ;;
      input=*) INPUTS+=("${line#*=}") ;;
      env=*) VARIABLES+=("--env=${line#*=}") ;;
    esac
  done <<<"$order"
  [[ -n $RUN && -n $NUMBER && -n $IMAGE ]]
}

# Whole at any moment: the pulse reads it while it is written.
state() { printf '%s' "$1" >"$LOCAL/state.new" && mv -f "$LOCAL/state.new" "$LOCAL/state"; }

beat() {
  put "{\"state\": \"$(<"$LOCAL/state")\", \"time\": \"$(date -u +%FT%TZ)\", \"attempt\": $NUMBER}" \
    "$RUN/workers/$INDEX.json"
  if [[ -s $LOCAL/log ]]; then
    tail -n 200 "$LOCAL/log" | gcloud storage cp --quiet - "$RUN/logs/$INDEX.log"
  fi
  if [[ $INDEX == 0 && -s $LOCAL/out/metrics.jsonl ]]; then
    gcloud storage cp --quiet "$LOCAL/out/metrics.jsonl" "$RUN/metrics.jsonl"
  fi
}

stopped() { present "$RUN/stop/$NUMBER"; }

pulse() {
  while :; do
    beat
    if stopped; then docker stop -t "$STOP_SECONDS" "$NAME" >/dev/null 2>&1; fi
    sleep "$HEARTBEAT"
  done
}

# Fails with a reason in WHY when the image cannot be had.
fetch_image() {
  local tries registry=${IMAGE%%/*}
  for ((tries = 0; tries < 60; tries++)); do
    docker info >/dev/null 2>&1 && break
    sleep "$PAUSE"
  done
  # By the VM's own service account: no key and no token is handed over.
  case $registry in
    *.pkg.dev | gcr.io | *.gcr.io) gcloud auth configure-docker "$registry" --quiet ;;
  esac
  WHY='the image cannot be pulled'
  patiently docker pull --quiet "$IMAGE"
}

fetch_inputs() {
  local each url role here
  MOUNTS=("--volume=$LOCAL/out:/out")
  for each in ${INPUTS[@]+"${INPUTS[@]}"}; do
    role=${each%% *} url=${each#* }
    here=$LOCAL/inputs/${url##*/}
    WHY="the input $role cannot be copied"
    if [[ ! -e $here.complete ]]; then
      mkdir -p "$here"
      patiently gcloud storage rsync --quiet --recursive "$url" "$here" || return
      touch "$here.complete"
    fi
    MOUNTS+=("--volume=$here:/in/$role:ro")
  done
  # The code that was fingerprinted, over the image's.
  WHY='the code cannot be copied'
  patiently gcloud storage cp --quiet "$RUN/code.tar.gz" "$LOCAL/code.tar.gz" || return
  rm -rf "$LOCAL/code"
  mkdir -p "$LOCAL/code" && tar -xzf "$LOCAL/code.tar.gz" -C "$LOCAL/code" || return
  for here in "$LOCAL"/code/*; do
    MOUNTS+=("--volume=$here:/opt/espalier/${here##*/}:ro")
  done
  WHY='the run cannot be copied'
  rm -rf "$LOCAL/out"
  mkdir -p "$LOCAL/out/.run"
  patiently gcloud storage cp --quiet "$RUN/run.json" "$LOCAL/out/.run/run.json" || return
  if [[ $INDEX == 0 ]] && present "$RUN/metrics.jsonl"; then
    gcloud storage cp --quiet "$RUN/metrics.jsonl" "$LOCAL/out/metrics.jsonl"
  fi
}

# Started on some hosts only, all would wait for the others for ever.
barrier() {
  local began=$SECONDS ready=0
  WHY='the other workers did not get ready'
  while :; do
    ready=$(gcloud storage cat "$RUN/workers/*.json" 2>/dev/null |
      grep -E '"state": "(ready|running|saving|ended)"' | grep -c "\"attempt\": $NUMBER}")
    ((ready >= WORKERS)) && return
    stopped && return 1
    ((SECONDS - began < BARRIER)) || return 1
    sleep "$HEARTBEAT"
  done
}

run_container() {
  local stale name
  stale=$(docker ps --all --quiet --filter "label=$LABEL")
  # shellcheck disable=SC2086 # ids, one a word
  [[ -z $stale ]] || docker rm --force $stale
  # One process owns the chips; the next cannot have them while the last one's lock lies there.
  rm -f /tmp/libtpu_lockfile
  # A slice that took another's place must not be told of the other's hosts.
  for name in ${!MEGASCALE_@}; do unset "$name"; done
  docker run --rm --privileged --net=host --init --shm-size=16g --ulimit memlock=68719476736 \
    --name "$NAME" --label "$LABEL" --stop-timeout "$STOP_SECONDS" --user 0:0 --workdir /tmp \
    --env "ESPALIER_NODE=$INDEX" --env "ESPALIER_HEAD=$HEAD" ${VARIABLES[@]+"${VARIABLES[@]}"} \
    "${MOUNTS[@]}" "$IMAGE" python -m espalier.run_stage /out
}

# 0, or the code that the work ended in; WHY says what the stage itself did not.
work() {
  WHY=''
  state preparing
  { fetch_image && fetch_inputs; } >>"$LOCAL/log" 2>&1 || return 3
  state ready
  beat
  barrier || return 75
  state running
  beat
  WHY=''
  local code=0
  stopped && return 75
  run_container >>"$LOCAL/log" 2>&1 || code=$?
  case $code in 125 | 126 | 127) WHY='docker could not start the stage' code=3 ;; esac
  if [[ $code == 0 && $INDEX == 0 ]]; then
    state saving
    # Of the run's own folder only what a check on another machine goes by.
    find "$LOCAL/out/.run" -type f ! -name made.json ! -name logits.safetensors -delete
    WHY='the result cannot be copied'
    patiently gcloud storage rsync --quiet --recursive --delete-unmatched-destination-objects \
      "$LOCAL/out" "$RUN/output" >>"$LOCAL/log" 2>&1 || return 3
    WHY=''
  fi
  return "$code"
}

# The exit record comes last: where it is, all the rest is.
ended() {
  state ended
  beat
  patiently put "{\"code\": $1, \"why\": \"$WHY\"}" "$RUN/exits/$NUMBER/$INDEX.json"
}

serve() {
  local mark code=0 pulse
  mark=$LOCAL/served/$(printf '%s %s' "$RUN" "$NUMBER" | cksum | tr ' ' -)
  [[ -e $mark.ended ]] && return
  present "$RUN/exits/$NUMBER/$INDEX.json" && touch "$mark.ended" && return
  rm -f "$LOCAL/log"
  if [[ -e $mark ]]; then # the others have not waited
    WHY='its host was started again' code=75
  else
    touch "$mark"
    state preparing
    pulse &
    pulse=$!
    work || code=$?
    kill "$pulse" 2>/dev/null
    wait "$pulse" 2>/dev/null
  fi
  say "worker $INDEX ends in $code${WHY:+: $WHY}"
  ended "$code" && touch "$mark.ended"
}

mkdir -p "$LOCAL/served" "$LOCAL/inputs"
until who; do sleep "$PAUSE"; done
while :; do
  if read_work; then serve; fi
  sleep "$HEARTBEAT"
done
