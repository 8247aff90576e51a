"""Whatever a command leaves, prints or starts shows none of its caller's secrets."""

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.execution import Executor
from espalier.host.images.engine import installed_engine
from espalier.host.package_index import package_index
from espalier.host.plan import Request
from espalier.host.runtimes import local
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.secrets import hub_environment, hub_token, without_logins
from espalier.host.settings import Settings, read_settings
from tests.contract.command import espalier
from tests.planted import WORDS, address, find_planted, plant, planted_in
from tests.tiny import tiny_llama
from tests.unit.hub_server import Hub, serve

RECORDER = """#!/bin/sh
{ printf '%s\\n' "$0" "$@"; [ -t 0 ] || cat; } >> "$RECORD"
env > "$RECORD.environment"
case "$1" in --parsable) echo 7 ;; esac
"""
"""A program that writes down what it is told, and what it finds in its environment."""


@dataclass
class Seen:
    """All that other users of a machine, and readers of its logs, could have seen.

    Attributes:
        root: where everything is written.
        said: on stdout and stderr.
        lines: the command lines of everything that was started.
    """

    root: Path
    said: list[str] = field(default_factory=list)
    lines: set[bytes] = field(default_factory=set)

    @property
    def store(self) -> Path:
        return self.root / "store"

    def run(self, *words: str, code: int = 0, cold: bool = False, **variables: str) -> str:
        """A command with every secret in its environment; what it says."""
        recorded = {"RECORD": str(self.root / "record"), "NO_PROXY": "127.0.0.1", **variables}
        with self.watched():
            done = espalier(self.store, *words, environment=plant() | recorded, cold=cold)
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def require_nothing(self) -> None:
        assert [place for text in self.said for place in planted_in(text)] == []
        assert [line for line in self.lines if planted_in(line)] == []
        assert find_planted(self.root) == []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile, look again and again at what this process has started."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.02):
                self.lines |= set(command_lines())

        watching = threading.Thread(target=look)
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()


def command_lines() -> Iterator[bytes]:
    """Of this process's descendants, but for the command itself, whose words are the caller's."""
    waiting = [Path("/proc/self")]
    while waiting:
        process = waiting.pop()
        try:
            for task in (process / "task").iterdir():
                children = (task / "children").read_text().split()
                waiting += [Path("/proc") / child for child in children]
            line = (process / "cmdline").read_bytes()
            if b"\0-m\0espalier\0" not in line and b"tests/warm/" not in line:
                yield line
        except OSError:  # it has ended
            continue


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("docker", "sbatch", "scancel", "squeue"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    (tmp_path / "left").mkdir()
    return Seen(tmp_path / "left")


def model(seen: Seen) -> Path:
    return tiny_llama(seen.root / "tiny")


def test_what_stages_publish_and_say(seen: Seen) -> None:
    text = seen.root / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{n} foxes jump"}) + "\n" for n in range(50)))
    seen.run("adopt", f"FROM={model(seen)}", "NAME=m", cold=True)
    seen.run("data", f"SOURCE={text}", "TOKENIZER=m", "DATA=d")
    seen.run("prune-magnitude", "MODEL=m", "SUITE=none", "NAME=p")
    for words in (["list"], ["show", "CKPT=p"], ["verify", "CKPT=p"], ["gc", "DRY_RUN=1"]):
        seen.run(*words)
    assert (seen.store / "checkpoints" / "p" / "manifest.json").is_file()
    assert any(b"run_stage" in line for line in seen.lines)
    seen.require_nothing()


def test_what_fetching_leaves(seen: Seen) -> None:
    """The hub is asked with the token; neither it nor what stands in addresses stays."""
    files = {path.name: path.read_bytes() for path in model(seen).iterdir()}
    token = WORDS["token of the hub"]
    hub = Hub({"models/org/tiny": files}, gated={"models/org/tiny"}, token=token)
    with serve(hub):
        login = hub.url.replace("://", f"://someone:{WORDS['login of an address']}@")
        seen.run("fetch", "MODEL=org/tiny", HF_ENDPOINT=hub.url)
        seen.run("fetch", "MODEL=org/absent", code=2, HF_ENDPOINT=hub.url)
        seen.run("fetch", "MODEL=org/tiny", "REVISION=no", code=2, HF_ENDPOINT=login)
    seen.run("fetch", "MODEL=org/other", code=3, HF_ENDPOINT=login, NO_PROXY="")
    assert (seen.store / "models" / "tiny" / "manifest.json").is_file()
    seen.require_nothing()


def test_what_pushing_leaves(seen: Seen) -> None:
    """The hub is given files and asked with the token; no file, no output has a secret."""
    seen.run("adopt", f"FROM={model(seen)}", "NAME=m")
    hub = Hub({}, token=WORDS["token of the hub"])
    with serve(hub):
        login = hub.url.replace("://", f"://someone:{WORDS['login of an address']}@")
        words = ("push", "CKPT=m", "REPO=me/m")
        hub.strike = lambda asked: 400 if asked.startswith("PUT") else None
        assert "the hub refuses me/m" in seen.run(*words, code=2, HF_ENDPOINT=hub.url)
        hub.strike = lambda asked: None
        seen.run(*words, HF_ENDPOINT=hub.url)
        seen.run(*words, HF_ENDPOINT=login)
        seen.run("push", "CKPT=m", "REPO=me/n", code=2, HF_ENDPOINT=login)
    seen.run(*words, code=3, HF_ENDPOINT=login, NO_PROXY="")
    files = hub.head("me/m").files
    assert {"model.safetensors", "README.md", "manifest.json"} <= set(files)
    assert [name for name, content in files.items() if planted_in(content)] == []
    assert [name for name, content in files.items() if str(seen.root).encode() in content] == []
    seen.require_nothing()


def test_a_run_in_a_virtual_environment(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """RUNTIME=local, with this environment in the place of the image's."""
    for name, value in plant().items():
        monkeypatch.setenv(name, value)
    for name in ("ensure_venv", "venv_python"):
        monkeypatch.setattr(local, name, lambda *given: Path(sys.executable))
    stage, settings = stage_named("corpus"), Settings(store=seen.store, threads=1)
    executor = Executor(Store(seen.store), local.LocalRuntime(), settings)
    with seen.watched():
        made = executor.execute(Request(stage, stage.parameters(), {}, "x"))
    assert json.loads((made / "manifest.json").read_text())["environment"]["runtime"] == "local"
    assert any(b"run_stage" in line for line in seen.lines)
    seen.said += capfd.readouterr()
    seen.require_nothing()


@pytest.mark.parametrize("scheme", ["https", "gs", "s3"])
def test_an_address_is_refused_without_being_shown(seen: Seen, scheme: str) -> None:
    given = address(scheme)
    for words in (
        ("fetch", f"MODEL={given}"),
        ("prune-magnitude", f"MODEL={given}", "SUITE=none"),
        ("data", f"SOURCE={given}", "TOKENIZER=x"),
        ("eval", f"CKPT={given}"),
        ("adopt", f"FROM={given}", "NAME=x"),
        ("show", f"CKPT={given}"),
        ("list", f"CONTAINER_IMAGE={given}"),
        ("list", f"SBATCH_FLAGS=--export=ALL,KEY={WORDS['flag of an engine']}"),
    ):
        assert seen.run(*words, code=2).count("espalier: ") == 1
    with pytest.raises(InputError, match=r"^STORE=") as refused:
        read_settings({"STORE": given})
    assert planted_in(str(refused.value)) == []
    seen.require_nothing()


@pytest.mark.parametrize("runtime", ["docker", "slurm", "inside"])
def test_previews(seen: Seen, runtime: str) -> None:
    words = ("prune-magnitude", f"MODEL={model(seen)}", "SUITE=none", "DRY_RUN=1")
    assert "magnitude" in seen.run(*words, f"RUNTIME={runtime}", *slurm(runtime))
    assert "fetch" in seen.run("fetch", "MODEL=org/tiny", "DRY_RUN=1", f"RUNTIME={runtime}")
    (seen.root / "record.environment").unlink(missing_ok=True)  # which only a child can see
    seen.require_nothing()


def test_jobs_plans_and_what_slurm_is_told(seen: Seen) -> None:
    words = ("prune-magnitude", f"MODEL={model(seen)}", "SUITE=none", "RUNTIME=slurm")
    seen.run(*words, *slurm("slurm"), "SBATCH_FLAGS=--exclusive")
    told = (seen.root / "record").read_text()
    assert "#SBATCH --exclusive" in told
    assert "--parsable" in told
    assert list((seen.store / "slurm").glob("plan-*.json"))
    (seen.root / "record.environment").unlink()
    seen.require_nothing()


def slurm(runtime: str) -> list[str]:
    return ["CONTAINER=inside"] if runtime == "slurm" else []


def test_an_engine_is_told_names_and_files(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in plant().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RECORD", str(seen.root / "record"))
    monkeypatch.setenv("DOCKER", shutil.which("docker") or "")
    fetch, engine = stage_named("fetch"), installed_engine("docker")
    assert engine is not None
    output = seen.store / "models" / "m.partial-1"
    output.mkdir(parents=True)
    launch = Launch("eval", "cpu", "run-1", {}, output, True, environment=hub_environment(fetch))
    with hub_token(fetch) as hub, package_index(fetch) as index:
        assert planted_in(hub["HF_TOKEN_PATH"].read_text()) == ["token of the hub"]
        settings = Path(index["PIP_CONFIG_FILE"])
        found = planted_in(settings.read_text())
        assert {"login of a package index", "login of another package index"} <= set(found)
        assert [path.stat().st_mode & 0o077 for path in (*hub.values(), settings)] == [0, 0]
        runtime = ContainerRuntime(engine)
        online = replace(launch, secrets={**hub, **index})
        assert runtime.run(online) == 0
        assert planted_in("\n".join(without_logins(runtime.argv(online)))) == []
    environment = seen.root / "record.environment"
    assert {"flag of an engine", "login of a proxy"} <= set(planted_in(environment.read_bytes()))
    assert "--env=SERVICE_KEY" in (seen.root / "record").read_text()
    environment.unlink()
    assert not [path for path in (*hub.values(), settings) if path.exists()]
    seen.require_nothing()
