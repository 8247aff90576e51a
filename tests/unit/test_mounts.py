"""Paths that engines are given to mount: each reads the path that was meant, or it is refused.

The readers here are written from what docker, podman, apptainer and pyxis do with the words, and
share nothing with the code that writes them.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from espalier.errors import InputError
from espalier.host.images import Engine
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.mounts import Mount
from espalier.host.runtimes.slurm.backends import Apptainer, ImageFiles, Pyxis
from espalier.host.runtimes.slurm.job import Job
from espalier.host.runtimes.tpu_vm import startup
from espalier.host.settings import Settings

ODD = [
    "a:b", "a,b", "a=b", 'a"b', '"', "a b", " a", "a'b", "$HOME", "`id`", "a\\b", "a\nb", "a\tb",
    "a\rb", "é", "模型", "🙂", "*", "[x]", "{a,b}", "source=etc,target=x", "a#b", "-v", "~", "%j",
    'a",readonly,"', "a;b", "a|b", "a&b", "!a",
]  # fmt: skip
MISREAD = ["a\r\nb", "a ", "a\n", "a\u00a0", "a\udc80"]
letters = st.one_of(st.sampled_from(":,=\"' $\\`\n\r\té{}#"), st.characters(codec="utf-8"))
names = st.text(letters, min_size=1, max_size=12).filter(
    lambda name: "/" not in name and "\0" not in name and name not in (".", "..")
)


def fields(line: str) -> Iterator[str]:
    """A line of CSV as Go's reader takes it: what it refuses is refused."""
    rest = line
    while True:
        if rest.startswith('"'):
            found = re.match(r'"((?:[^"]|"")*)"(?=,|\Z)', rest)
            assert found, rest
            value = found[1].replace('""', '"').replace("\r\n", "\n")
        else:
            found = re.match(r"[^,]*", rest)
            assert found
            value = found[0]
            assert not set('"\r\n') & set(value), rest
        yield value
        rest = rest[found.end() :]
        if not rest:
            return
        assert rest[0] == ","
        rest = rest[1:]


def read(flag: str) -> dict[str, str]:
    """The fields of a mount, as the clients of docker read them; the other two ask for less."""
    name, _, line = flag.partition("=")
    assert name == "--mount"
    assert line == line.strip()
    found = {}
    for field in fields(line):
        key, given, value = field.partition("=")
        assert key not in found
        assert value == value.strip()
        assert bool(value) == bool(given)
        found[key] = value
    return found


@given(names, names, st.booleans())
@example("model", "file.jsonl", False)
def test_every_engine_reads_the_path_that_was_meant(name: str, file: str, writable: bool) -> None:
    source, target = f"/nowhere/{name}/x", f"/in/role/{file}"
    try:
        flag = Mount(Path(source), target, writable).flag()
    except InputError as refusal:
        assert "\n" not in str(refusal)
        assert any(
            "\r\n" in text or text[-1].isspace() or re.search("[\ud800-\udfff]", text)
            for text in (source, target)
        )
        return
    expected = {"type": "bind", "source": source, "target": target}
    assert read(flag) == expected | ({} if writable else {"readonly": ""})


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch("wanda", "cpu", "run-1", {}, tmp_path / "out")


APPTAINER = Apptainer(ImageFiles("/images/x.sif", Path("/nowhere")))
PYXIS = Pyxis(ImageFiles("/images/x.sqsh", Path("/nowhere")))


@pytest.mark.parametrize("number", range(len(ODD)))
def test_an_odd_path_is_mounted_by_every_engine(
    number: int, launch: Launch, tmp_path: Path
) -> None:
    folder = tmp_path / ODD[number]
    (folder / "model").mkdir(parents=True)
    (folder / ODD[number]).touch()
    inputs = {"model": folder / "model", "data": folder / ODD[number]}
    odd = replace(launch, inputs=inputs, output=folder / "out", compiled=folder / "xla")
    odd = replace(odd, secrets={"HF_TOKEN_PATH": folder / "token"})
    expected = {
        "/in/model": folder / "model",
        f"/in/data/{ODD[number]}": folder / ODD[number],
        "/out": folder / "out",
        "/run/secrets/hf_token_path": folder / "token",
    }
    for engine in ("docker", "podman"):
        runtime = ContainerRuntime(Engine(engine, f"/nowhere/{engine}"))
        runtime.require_mountable(odd)
        words = [word for word in runtime.argv(odd) if word.startswith("--mount")]
        found = {mount["target"]: Path(mount["source"]) for mount in map(read, words)}
        assert found == expected | {"/compiled": folder / "xla"}
        written = {mount["target"] for mount in map(read, words) if "readonly" not in mount}
        assert written == {"/out", "/compiled"}
    APPTAINER.require_mountable(odd)
    words = [word for word in APPTAINER.command(odd) if word.startswith("--mount")]
    found = {mount["target"]: Path(mount["source"]) for mount in map(read, words)}
    assert found.items() >= expected.items()


@pytest.mark.parametrize("number", range(len(MISREAD)))
def test_a_path_that_no_engine_reads_is_refused(number: int, launch: Launch) -> None:
    odd = replace(launch, output=Path("/nowhere") / MISREAD[number])
    for place in (ContainerRuntime(Engine("docker", "/nowhere/docker")), APPTAINER):
        with pytest.raises(InputError, match=r"which no engine can mount; rename it, or use RUN"):
            place.require_mountable(odd)


def test_pyxis_is_given_what_its_script_and_its_table_keep(launch: Launch) -> None:
    """It separates by colons and commas, has bash `echo "…"`, and enroot splits at spaces."""
    kept = []
    for character in [*map(chr, range(1, 128)), "é", "模", "🙂", "\u2003"]:
        odd = replace(launch, output=Path(f"/nowhere/a{character}b"))
        if character == "/":
            continue
        try:
            PYXIS.require_mountable(odd)
        except InputError as refusal:
            assert "pyxis misreads it; rename it, or use CONTAINER=none" in str(refusal)
            continue
        (flag,) = (word for word in PYXIS.flags(odd) if word.startswith("--container-mounts="))
        entry = flag.partition("=")[2].split(",")[0]
        source, target, mode = entry.split(":")
        assert (target, mode) == ("/out", "rw")
        kept.append((f"/nowhere/a{character}b", source))
    script = "\n".join(f'echo "{source} /out x-create=auto,rbind,rw"' for _, source in kept)
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    lines = told.stdout.split("\n")[:-1]
    assert [line.split()[0] for line in lines] == [path for path, _ in kept]
    assert all(len(line.split()) == 3 for line in lines)
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+=@é模"
    assert {path[10] for path, _ in kept} >= set(plain)


def test_a_tpu_vm_s_script_writes_the_same(tmp_path: Path) -> None:
    texts = [text for text in ODD if text[-1] != "\n"]
    (line,) = (line for line in startup.BODY.read_text().splitlines() if "mount_at()" in line)
    script = (
        f'MOUNTS=()\n{line}\nfor each in "$@"; do mount_at "/data/$each" /in/x readonly; done\n'
    )
    script += "printf '%s\\0' \"${MOUNTS[@]}\""
    told = subprocess.run(["bash", "-c", script, "bash", *texts], capture_output=True, check=True)
    found = [read(flag) for flag in told.stdout.decode().split("\0")[:-1]]
    assert [mount["source"] for mount in found] == [f"/data/{text}" for text in texts]


ONE_LINE = [text for text in ODD if text.isprintable() and "\\" not in text]


@pytest.mark.parametrize("number", range(len(ONE_LINE)))
def test_a_job_s_script_keeps_the_words(number: int, tmp_path: Path) -> None:
    text = ONE_LINE[number]
    settings = Settings(store=tmp_path / text, runtime="slurm")
    job = Job("prune-wanda", tmp_path / text / "plan", settings)
    (line,) = (line for line in job.script().split("\n") if line.startswith("set -- "))
    script = f"{line}\nprintf '%s\\0' \"$@\""
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert told.stdout.decode().split("\0")[:-1] == job.words
    (option,) = (line for line in job.script().split("\n") if line.startswith("#SBATCH --output="))
    (pattern,) = shlex.split(option.partition(" ")[2])
    assert pattern.replace("%%", "%") == f"--output={tmp_path / text}/slurm/%x-%j.log"
    assert re.findall(r"%(?!%)[a-z]", pattern.replace("%%", "")) == ["%x", "%j"]


def test_a_store_that_slurm_cannot_write_a_log_in(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "a\\b", runtime="slurm")
    with pytest.raises(InputError, match=r"has a backslash, .* give another STORE"):
        Job("prune-wanda", tmp_path / "plan", settings).script()
