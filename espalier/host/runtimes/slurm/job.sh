#!/usr/bin/env bash
# Runs "$@" as a job that may be stopped: it resumes in the same job, put back into the queue.
set -u
CHILD=
STOPPED=

# The controller may be busy, or be restarted: it is asked for a minute.
asked() {
  for _ in {1..12}; do
    "$@" && return
    sleep "${ESPALIER_ASK_AGAIN_SECONDS:-5}"
  done
  return 1
}

# Slurm signals this script alone, ahead of the time limit (--signal=B:TERM@…).
trap 'STOPPED=1; [[ -z $CHILD ]] || kill -TERM "$CHILD"' TERM

"$@" &
CHILD=$!
[[ -z $STOPPED ]] || kill -TERM "$CHILD" # the signal came before the child had a number
CODE=0
wait "$CHILD" || CODE=$?
while kill -0 "$CHILD" 2>/dev/null; do # a signal has ended the wait, not the command
  CODE=0
  wait "$CHILD" || CODE=$?
done

# Interrupted (75), or stopped before a stage had begun (143): run the same command to resume. One that
# nobody stopped was killed, probably out of memory: it is tried three times, not for ever.
if [[ -n $STOPPED && $CODE =~ ^(75|143)$ || $CODE == 75 && ${SLURM_RESTART_COUNT:-0} -lt 3 ]]; then
  # Not a job that somebody cancels, nor one that Slurm puts back itself: those run no longer.
  if [[ $(asked squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
    asked scontrol requeue "$SLURM_JOB_ID" || echo "espalier: Slurm does not answer, so this job is not" \
      "queued again; run the same command to resume." >&2
  fi
fi
exit "$CODE"
