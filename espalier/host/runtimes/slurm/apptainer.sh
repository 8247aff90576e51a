#!/usr/bin/env bash
# One task of a step: `apptainer exec "$@"` with what only the node itself knows.
set -u

# --containall keeps /tmp in memory, a few megabytes of it: the stage's /tmp is a folder of its own.
work=$(mktemp -d) || exit 3
# Slurm signals every process of a step; the stage answers, and this waits for it.
trap : INT TERM

export APPTAINERENV_ESPALIER_NODE=${SLURM_NODEID:-0}
# Unset is every GPU, and empty is none.
if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  export APPTAINERENV_CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES
fi
if [[ -d /dev/infiniband ]]; then
  set -- --bind=/dev/infiniband "$@"
fi

code=0
apptainer exec "--workdir=$work" "$@" || code=$?
rm -rf "$work"
exit "$code"
