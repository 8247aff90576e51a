#!/usr/bin/env bash
# Starts and stops a Docker engine of CI's own, for machines where none runs.
#   engine.sh start     starts it unless it answers, and prints its DOCKER_HOST
#   engine.sh running   prints its DOCKER_HOST, or fails where it does not answer
#   engine.sh stop      stops it
# Its images live in the CI cache, outside the clone, so that the next run is warm.
set -euo pipefail

cache=${ESPALIER_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier-ci}
run=/run/espalier-ci
socket=$run/docker.sock
pidfile=$run/docker.pid
docker=${DOCKER:-/usr/bin/docker}

answers() {
  DOCKER_HOST=unix://$socket timeout 10 "$docker" version >/dev/null 2>&1
}

start() {
  if answers; then
    echo "unix://$socket"
    return
  fi
  mkdir -p "$cache/docker" "$run"
  # What an engine that was killed has left, its mounts first.
  pkill -KILL -f "containerd --config $run/exec" || true
  awk -v below="$run/exec" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r \
    | xargs --no-run-if-empty umount --lazy
  rm -rf "$pidfile" "$socket" "$run/exec"
  # setsid: Ctrl-C in the terminal must not end the engine before the containers are gone.
  setsid dockerd \
    --data-root "$cache/docker" --exec-root "$run/exec" \
    --pidfile "$pidfile" --host "unix://$socket" \
    --log-level warn >"$cache/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 60); do
    if answers; then
      echo "unix://$socket"
      return
    fi
    sleep 1
  done
  echo "The Docker engine did not answer within 60 s; its log ends with:" >&2
  tail -n 20 "$cache/dockerd.log" >&2
  return 1
}

stop() {
  [[ -f $pidfile ]] || return 0
  local pid
  pid=$(<"$pidfile")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 30); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 1
  done
  kill -9 "$pid" 2>/dev/null || true
}

case ${1:-} in
  start) start ;;
  running) answers && echo "unix://$socket" ;;
  stop) stop ;;
  *)
    echo "usage: engine.sh start|running|stop" >&2
    exit 2
    ;;
esac
