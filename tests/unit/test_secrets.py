"""No secret stands in the words of a command, which all of a machine and all manifests see."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.errors import EnvironmentFailure
from espalier.host.images import Engine
from espalier.host.images.lock import run_uv
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.secrets import by_name, hub_environment, without_logins

PLANTED = "s3cr3t"
CLIENT = """#!/bin/sh
[ "$1" = rm ] && exit
printf '%s\\n' "$@" > "$WORDS"
env > "$WORDS.env"
"""


@pytest.mark.parametrize(
    ("flags", "kept", "values"),
    [
        (["-e", f"KEY={PLANTED}"], ["--env=KEY"], {"KEY": PLANTED}),
        (["--env", "KEY=a=b c"], ["--env=KEY"], {"KEY": "a=b c"}),
        (["--env=KEY=x"], ["--env=KEY"], {"KEY": "x"}),
        (["-eKEY=x"], ["--env=KEY"], {"KEY": "x"}),
        (["-e=KEY=x"], ["--env=KEY"], {"KEY": "x"}),
        (["-e", "KEY="], ["--env=KEY"], {"KEY": ""}),
        (["-e", "KEY"], ["--env=KEY"], {}),
        (["--env-file=f", "--ulimit", "nofile=1"], ["--env-file=f", "--ulimit", "nofile=1"], {}),
        (["--entrypoint", "x"], ["--entrypoint", "x"], {}),
    ],
)
def test_variables_are_passed_by_name(
    flags: list[str], kept: list[str], values: dict[str, str]
) -> None:
    assert by_name(flags) == (kept, values)


def test_a_containers_client_is_told_names_and_has_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "docker"
    client.write_text(CLIENT)
    client.chmod(0o755)
    proxy = f"http://me:{PLANTED}@proxy.example:3128"
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("WORDS", str(tmp_path / "words"))
    fetch = stage_named("fetch")
    engine = Engine("docker", str(client), run_flags=("-e", f"KEY={PLANTED}"))
    launch = Launch("eval", "cpu", "run-1", {}, tmp_path / "out")
    online = replace(launch, network=True, environment=hub_environment(fetch))
    runtime = ContainerRuntime(engine)
    assert not any(PLANTED in word for word in runtime.argv(online))
    assert runtime.run(online) == 0
    words = (tmp_path / "words").read_text()
    assert PLANTED not in words
    assert "--env=HTTPS_PROXY\n" in words
    assert "--env=KEY\n" in words
    environment = (tmp_path / "words.env").read_text().splitlines()
    assert {f"HTTPS_PROXY={proxy}", f"KEY={PLANTED}"} <= set(environment)
    assert os.environ.get("KEY") != PLANTED


def test_what_an_installer_says_is_shown_without_logins(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(
        "UV_DEFAULT_INDEX", f"https://me:{PLANTED}@index.example/simple?key={PLANTED}"
    )
    said = ["sh", "-c", 'echo "no $UV_DEFAULT_INDEX here" >&2; exit 1']
    with pytest.raises(
        EnvironmentFailure, match=r"no https://…@index\.example/simple\?… here"
    ) as told:
        run_uv(said, "it failed")
    assert PLANTED not in "".join((str(told.value), *capfd.readouterr()))


def test_arguments_of_a_build_are_passed_by_name(tmp_path: Path) -> None:
    flags = ["--build-arg", f"KEY={PLANTED}", f"--build-arg=B={PLANTED}", "-e", "x=y", "--ssh=a"]
    kept, values = by_name(flags, "--build-arg", "")
    assert kept == ["--build-arg=KEY", "--build-arg=B", "-e", "x=y", "--ssh=a"]
    assert values == {"KEY": PLANTED, "B": PLANTED}


def test_addresses_are_shown_without_their_logins() -> None:
    words = [f"--proxy=http://me:{PLANTED}@host:1/a@b", f"https://{PLANTED}@host", "a@b", "x://h/@"]
    assert without_logins(words) == [
        "--proxy=http://…@host:1/a@b",
        "https://…@host",
        "a@b",
        "x://h/@",
    ]
