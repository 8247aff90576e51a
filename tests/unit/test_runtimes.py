"""What a runtime is asked to run, word for word, without running it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.processes import Processes
from espalier.errors import InputError
from espalier.host.images import Engine, Trial
from espalier.host.package_index import package_index
from espalier.host.runtimes import choice, local
from espalier.host.runtimes.base import Launch, Limits, run_to_end
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.local import LocalRuntime
from espalier.host.secrets import hub_environment, hub_token
from espalier.host.settings import Settings

TOKEN = "hf_secret"


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    (tmp_path / "model").mkdir()
    (tmp_path / "ids.safetensors").touch()
    inputs = {"model": tmp_path / "model", "calibration": tmp_path / "ids.safetensors"}
    return Launch("wanda", "cpu", "run-1", inputs, tmp_path / "out")


def argv(launch: Launch, name: str = "docker") -> list[str]:
    engine = Engine(name, f"/nowhere/{name}", ("-H", "x"), ("--ulimit", "y"))
    return ContainerRuntime(engine).argv(launch)


def test_a_command_is_told_without_its_packages_and_run_with_them(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DRY_RUN=1 shows the command of a stage whose packages would be gigabytes."""
    built: list[tuple[str, str]] = []
    monkeypatch.setattr(local, "ENVIRONMENTS", tmp_path / "venvs")
    monkeypatch.setattr(local, "ensure_venv", lambda *given: built.append(given[:2]))
    cuda = replace(launch, device="cuda")
    python = Path(local.LocalRuntime().argv(cuda)[0])
    assert python.is_relative_to(tmp_path / "venvs")
    assert python.parent.parent.name.startswith(f"{launch.image}-cuda-")
    assert built == []
    assert not (tmp_path / "venvs").exists()
    local.LocalRuntime().environment(cuda)
    assert built == [(launch.image, "cuda")]


def test_a_container_command(launch: Launch, tmp_path: Path) -> None:
    words = argv(launch)
    assert words[:4] == ["/nowhere/docker", "-H", "x", "run"]
    assert words[-5:] == ["espalier/wanda:cpu", "python", "-m", "espalier.run_stage", "/out"]
    assert words[-7:-5] == ["--ulimit", "y"]
    for flag in (
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--pull=never",
        f"--user={os.getuid()}:{os.getgid()}",
        f"--mount=type=bind,source={tmp_path}/model,target=/in/model,readonly",
        f"--mount=type=bind,source={tmp_path}/ids.safetensors,"
        "target=/in/calibration/ids.safetensors,readonly",
        f"--mount=type=bind,source={tmp_path}/out,target=/out",
        "--env=HF_HUB_OFFLINE=1",
    ):
        assert flag in words
    assert not any(word.startswith(("--memory", "--cpus", "--gpus")) for word in words)


def test_limits_are_passed_on(launch: Launch) -> None:
    words = argv(replace(launch, limits=Limits(2 << 30, 1.5)))
    assert {"--memory=2147483648", "--cpus=1.5"} <= set(words)


def test_several_ranks_have_memory_to_share(launch: Launch) -> None:
    assert "--shm-size=2g" in argv(replace(launch, processes=Processes(1, 2)))
    assert not any(word.startswith("--shm-size") for word in argv(launch))


def test_a_gpu_is_asked_for_as_each_engine_has_it(launch: Launch) -> None:
    cuda = replace(launch, device="cuda")
    assert "--gpus=all" in argv(cuda)
    assert "--device=nvidia.com/gpu=all" in argv(cuda, "podman")
    assert "espalier/wanda:cuda" in argv(cuda)


def test_the_token_is_a_file_of_fetch_stages_alone(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    fetch, wanda = stage_named("fetch"), stage_named("wanda")
    with hub_token(wanda) as secrets:
        assert secrets == {}
    assert hub_environment(wanda) == {}
    assert hub_environment(fetch)["HF_ENDPOINT"] == "https://mirror.example"
    with hub_token(fetch) as secrets:
        file = secrets["HF_TOKEN_PATH"]
        assert file.read_text() == TOKEN
        assert file.stat().st_mode & 0o077 == 0
        online = replace(launch, network=True, secrets=secrets)
        words = argv(online)
        environment = LocalRuntime().environment(online)
    assert not file.exists()
    assert not any(TOKEN in word for word in words)
    assert "--env=HF_TOKEN_PATH=/run/secrets/hf_token_path" in words
    assert "--network=none" not in words
    assert "HF_TOKEN" not in environment
    assert environment["HF_HUB_OFFLINE"] == "0"


def test_the_index_that_pip_is_set_to_reaches_fetch_stages_alone_and_as_a_file(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment wins over pip's files, as with pip itself."""
    settings, bundle = tmp_path / "pip.conf", tmp_path / "ca.pem"
    settings.write_text("[global]\nindex-url = https://a.example\nextra-index-url =\n b\n c\n")
    bundle.write_text("certificates")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_INDEX_URL", f"https://me:{TOKEN}@mirror.example/simple")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    with package_index(stage_named("wanda")) as secrets:
        assert secrets == {}
    with package_index(stage_named("fetch-package")) as secrets:
        file = secrets["PIP_CONFIG_FILE"]
        lines = file.read_text().splitlines()
        assert f"index-url = https://me:{TOKEN}@mirror.example/simple" in lines
        assert "extra-index-url = b c" in lines
        assert file.stat().st_mode & 0o077 == 0
        assert secrets["PIP_CERT"] == bundle
        words = argv(replace(launch, network=True, secrets=secrets))
    assert not file.exists()
    assert not any(TOKEN in word for word in words)
    assert "--env=PIP_CONFIG_FILE=/run/secrets/pip_config_file" in words
    mount = f"--mount=type=bind,source={bundle},target=/run/secrets/pip_cert,readonly"
    assert mount in words


def test_auto_takes_docker_then_podman_then_local(monkeypatch: pytest.MonkeyPatch) -> None:
    running: set[str] = {"docker", "podman"}
    monkeypatch.setattr(choice, "installed_engine", lambda name: Engine(name, name))
    monkeypatch.setattr(
        choice, "tried", lambda engine: Trial(engine, "" if engine.name in running else "broken")
    )
    assert choice.choose_runtime(Settings(runtime="auto")).name == "docker"
    running.remove("docker")
    assert choice.choose_runtime(Settings(runtime="auto")).name == "podman"
    running.clear()
    assert choice.choose_runtime(Settings(runtime="auto")).name == "local"
    with pytest.raises(InputError, match="RUNTIME=moon"):
        choice.choose_runtime(Settings(runtime="moon"))


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -KILL $$", 137)])
def test_a_childs_end_is_its_exit_code(script: str, code: int) -> None:
    assert run_to_end(["bash", "-c", script]) == code
