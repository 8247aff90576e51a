#!/usr/bin/env bash
# Runs as root on every worker of a TPU VM, at each boot: waits for work and does each once.
# Above this the launcher has set FOLDER (the TPU's in the bucket), TPU, PROJECT, ZONE, WORKERS,
# ORDER (the sha256 of the one order that it takes; any, where it is empty), ABANDONED (seconds
# after which it deletes itself; 0: never), OUTAGE, PRIVILEGED, HEARTBEAT, BARRIER and PAUSE.
# FOLDER/work names the run; all else is in the run's own folder.
set -u
export HOME=${HOME:-/root}
LOCAL=${ESPALIER_LOCAL:-/var/lib/espalier}
CONTAINER=espalier-work
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

answers() { present "$RUN/run-$SPEC.json"; }

# A command on the bucket, up to five times while the bucket answers; while it does not, as long as
# OUTAGE says: what is done is not thrown away for that.
steadily() {
  local failed=0 factor=1 began=$SECONDS
  until "$@"; do
    if answers; then ((++failed < 5)) || return; fi
    ((SECONDS - began < OUTAGE)) || return
    sleep $((PAUSE * factor))
    factor=$((factor < 8 ? factor * 2 : 8))
  done
}

# A file of the run's, whose sha256 is known, into $3.
fetch_known() {
  steadily gcloud storage cp --quiet "$1" "$3" || return
  [[ $(sha256sum <"$3") == "$2  -" ]] && return
  WHY="$WHY: ${1##*/} in the bucket is not what the launcher has sent"
  rm -f "$3"
  return 1
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
  RUN='' IMAGE='' NUMBER='' CODE='' SPEC='' INPUTS=() VARIABLES=()
  local line order
  order=$(gcloud storage cat "$FOLDER/work" 2>/dev/null) || return
  if [[ -n $ORDER && $(sha256sum <<<"$order") != "$ORDER  -" ]]; then
    say 'the order in the bucket is not the one that this TPU was made for'
    return 1
  fi
  while IFS= read -r line; do
    case $line in
      run=*) RUN=${line#*=} ;;
      attempt=*) NUMBER=${line#*=} ;;
      image=*) IMAGE=${line#*=} ;;
      code=*) CODE=${line#*=} ;;
      spec=*) SPEC=${line#*=} ;;
      input=*) INPUTS+=("${line#*=}") ;;
      env=*) VARIABLES+=("--env=${line#*=}") ;;
    esac
  done <<<"$order"
  [[ -n $RUN && -n $NUMBER && -n $IMAGE && -n $CODE && -n $SPEC ]]
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

# A launcher that is there writes another text at every look; clocks of others do not count.
hear_launcher() {
  local told
  told=$(gcloud storage cat "$RUN/launcher.json" 2>/dev/null) || return
  if [[ $told != "$(cat "$LOCAL/launcher" 2>/dev/null)" ]]; then
    printf '%s' "$told" >"$LOCAL/launcher"
  fi
}

# Nobody follows the work, which is over or cannot begin: the slice would cost for nothing.
delete_if_abandoned() {
  local heard
  ((INDEX == 0 && ABANDONED > 0)) || return 0
  [[ -n $RUN ]] && hear_launcher
  heard=$(stat -c %Y "$LOCAL/launcher") || return 0
  (($(date +%s) - heard >= ABANDONED)) || return 0
  say "no launcher was seen for $ABANDONED s: deleting $TPU"
  gcloud compute tpus queued-resources delete "$TPU" --project "$PROJECT" --zone "$ZONE" \
    --force --quiet --async || say "$TPU cannot be deleted from here, and costs; make tpu-reap does"
  touch "$LOCAL/launcher"
}

pulse() {
  while :; do
    beat
    if [[ $INDEX == 0 ]]; then hear_launcher; fi
    if stopped; then docker stop -t "$STOP_SECONDS" "$CONTAINER" >/dev/null 2>&1; fi
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

# $1 at $2 in the container: a line of CSV, whatever is in the path.
mount_at() { MOUNTS+=("--mount=type=bind,\"source=${1//\"/\"\"}\",target=$2${3:+,$3}"); }

fetch_inputs() {
  local each url role here
  MOUNTS=()
  mount_at "$LOCAL/out" /out
  for each in ${INPUTS[@]+"${INPUTS[@]}"}; do
    role=${each%% *} url=${each#* }
    here=$LOCAL/inputs/${url##*/}
    WHY="the input $role cannot be copied"
    if [[ ! -e $here.complete ]]; then
      mkdir -p "$here"
      steadily gcloud storage rsync --quiet --recursive "$url" "$here" || return
      touch "$here.complete"
    fi
    mount_at "$here" "/in/$role" readonly
  done
  # The code that was fingerprinted, over the image's.
  WHY='the code cannot be copied'
  fetch_known "$RUN/code-$CODE.tar.gz" "$CODE" "$LOCAL/code.tar.gz" || return
  rm -rf "$LOCAL/code"
  mkdir -p "$LOCAL/code" && tar -xzf "$LOCAL/code.tar.gz" -C "$LOCAL/code" || return
  for here in "$LOCAL"/code/*; do
    mount_at "$here" "/opt/espalier/${here##*/}" readonly
  done
  WHY='the run cannot be copied'
  rm -rf "$LOCAL/out"
  mkdir -p "$LOCAL/out/.run"
  fetch_known "$RUN/run-$SPEC.json" "$SPEC" "$LOCAL/out/.run/run.json" || return
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
  local devices=(--privileged) device
  if ((!PRIVILEGED)); then # by the devices of the chips alone
    devices=(--cap-add=SYS_RESOURCE --cap-add=IPC_LOCK)
    for device in /dev/vfio /dev/accel*; do
      [[ -e $device ]] && devices+=("--device=$device")
    done
  fi
  docker run --rm "${devices[@]}" --net=host --init --shm-size=16g --ulimit memlock=68719476736 \
    --name "$CONTAINER" --label "$LABEL" --stop-timeout "$STOP_SECONDS" --user 0:0 --workdir /tmp \
    --env "ESPALIER_NODE=$INDEX" --env "ESPALIER_HEAD=$HEAD" ${VARIABLES[@]+"${VARIABLES[@]}"} \
    "${MOUNTS[@]}" "$IMAGE" python -m espalier.run_stage /out
}

# The sha256, the size and the name of each file of the result, in $LOCAL/listed.
list_result() {
  local file
  (
    cd "$LOCAL/out" || exit
    find . -type f -printf '%P\n' | sort | while IFS= read -r file; do
      printf '%s %s %s\n' "$(sha256sum <"$file" | cut -d ' ' -f 1)" "$(stat -c %s "$file")" "$file"
    done
  ) >"$LOCAL/listed"
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
    list_result >>"$LOCAL/log" 2>&1 || return 3
    steadily gcloud storage cp --quiet "$LOCAL/listed" "$RUN/listed/$NUMBER" >>"$LOCAL/log" 2>&1 &&
      steadily gcloud storage rsync --quiet --recursive --delete-unmatched-destination-objects \
        "$LOCAL/out" "$RUN/output" >>"$LOCAL/log" 2>&1 || return 3
    LISTED=$(sha256sum <"$LOCAL/listed" | cut -d ' ' -f 1)
    WHY=''
  fi
  return "$code"
}

# The exit record comes last: where it is, all the rest is.
ended() {
  state ended
  beat
  local listed=${LISTED:+, \"listed\": \"$LISTED\"}
  steadily put "{\"code\": $1, \"why\": \"$WHY\"$listed}" "$RUN/exits/$NUMBER/$INDEX.json"
}

serve() {
  local mark code=0 pulse
  LISTED=''
  mark=$LOCAL/served/$(printf '%s %s' "$RUN" "$NUMBER" | cksum | tr ' ' -)
  [[ -e $mark.ended ]] && return
  present "$RUN/exits/$NUMBER/$INDEX.json" && touch "$mark.ended" && return
  rm -f "$LOCAL/log"
  if [[ -e $mark.code ]]; then # all that is left is to say so
    { read -r code && IFS= read -r WHY && read -r LISTED; } <"$mark.code"
  elif [[ -e $mark ]]; then # the others have not waited
    WHY='its host was started again' code=75
  else
    touch "$mark"
    state preparing
    pulse &
    pulse=$!
    work || code=$?
    kill "$pulse" 2>/dev/null
    wait "$pulse" 2>/dev/null
    printf '%s\n' "$code" "$WHY" "$LISTED" >"$mark.code.part" && mv "$mark.code.part" "$mark.code"
  fi
  say "worker $INDEX ends in $code${WHY:+: $WHY}"
  ended "$code" && touch "$mark.ended"
}

mkdir -p "$LOCAL/served" "$LOCAL/inputs"
touch "$LOCAL/launcher"
until who; do sleep "$PAUSE"; done
while :; do
  if read_work; then serve; fi
  delete_if_abandoned
  sleep "$HEARTBEAT"
done
