"""What is removed from an engine that others use too."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.errors import EnvironmentFailure
from espalier.host.images import Engine
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.mark import FILE, LABEL

CLIENT = """\
#!/usr/bin/env bash
# Of an engine: containers are files, named by their id, that hold their labels.
here=$(dirname "$0")
printf '%s\\n' "$*" >>"$here/calls"
[[ -e $here/down ]] && echo 'Cannot connect to the daemon.' >&2 && exit 1
case $1 in
  ps) cd "$here/containers" && { grep -lx -- "${5#label=}" -- * || true; } ;;
  rm) cd "$here/containers" && rm -- "${@:3}" ;;
  run)
    for word in "$@"; do [[ $word == --label=* ]] && echo "${word#--label=}"; done \\
      >"$here/containers/$RANDOM-left"
    exit 137
    ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """One whose containers stay, as where the machine that started them dies."""
    (tmp_path / "engine" / "containers").mkdir(parents=True)
    client = tmp_path / "engine" / "docker"
    client.write_text(CLIENT)
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    return Engine("docker", str(client))


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch("wanda", "cpu", "run-1", {}, tmp_path / "out")


def containers(engine: Engine) -> list[Path]:
    return sorted((Path(engine.client).parent / "containers").iterdir())


def test_what_an_earlier_start_has_left_is_removed(engine: Engine, launch: Launch) -> None:
    runtime = ContainerRuntime(engine)
    assert runtime.run(launch) == 137
    first = containers(engine)
    assert len(first) == 1
    runtime.run(launch)
    assert len(containers(engine)) == 1
    assert containers(engine) != first


def test_what_others_have_started_is_left_alone(
    engine: Engine, launch: Launch, tmp_path: Path
) -> None:
    """By the same name and the same path, on another machine or in another namespace."""
    theirs = replace(launch, output=tmp_path / "elsewhere" / "out")
    ContainerRuntime(engine).run(theirs)
    other = containers(engine)
    ContainerRuntime(engine).run(launch)
    ContainerRuntime(engine).run(launch)
    assert set(other) < set(containers(engine))
    assert len(containers(engine)) == 2


@pytest.mark.parametrize("mark", ["", "\n", "x", "--all", "a" * 31, f"{'a' * 32} b"])
def test_what_is_no_mark_removes_nothing(engine: Engine, launch: Launch, mark: str) -> None:
    (launch.output / ".run").mkdir(parents=True)
    (launch.output / ".run" / FILE).write_text(mark)
    (Path(engine.client).parent / "containers" / "theirs").write_text(f"{LABEL}={mark}\n")
    ContainerRuntime(engine).run(launch)
    assert [path.name for path in containers(engine) if path.name == "theirs"] == ["theirs"]
    calls = (Path(engine.client).parent / "calls").read_text()
    assert not any(line.startswith("rm") for line in calls.splitlines())
    assert f"--name=espalier-{launch.run_id}-" in calls


def test_an_engine_that_is_down_forgets_nothing(engine: Engine, launch: Launch) -> None:
    """What runs there yet is removed as soon as it answers again."""
    runtime, down = ContainerRuntime(engine), Path(engine.client).parent / "down"
    runtime.run(launch)
    first = containers(engine)
    down.touch()
    with pytest.raises(EnvironmentFailure, match=r"docker cannot say .*Cannot connect"):
        runtime.run(launch)
    down.unlink()
    runtime.run(launch)
    assert len(containers(engine)) == 1
    assert containers(engine) != first
