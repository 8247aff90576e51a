#!/usr/bin/env bash
# Makes a base of images where no image registry is reachable, and prints its name: of the Debian
# that is asked for, with its own Python, which is 3.11 in bookworm and 3.13 in trixie.
# The name carries a version: raise it when the list of packages changes.
set -euo pipefail

suite=${1:?bookworm or trixie}
name=espalier-base:$suite-1
docker=${DOCKER:-/usr/bin/docker}

if "$docker" image inspect "$name" >/dev/null 2>&1; then
  echo "$name"
  exit
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase \
  --include=ca-certificates,procps,python3,python3-venv \
  "$suite" "$root" >&2
# The official Python images call it python too.
ln -s python3 "$root/usr/bin/python"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale,man}
# Device nodes are the engine's business.
tar --directory "$root" --exclude './dev/*' --create . |
  "$docker" import --change 'CMD ["bash"]' - "$name" >&2
echo "$name"
