"""The contract around a stage, with the quickest one: `corpus`, which writes CPython's texts."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from espalier.contract.manifest import CONTRACT, read_manifest
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    refused,
    tree,
    without_times,
)
from tests.contract.waiting import wait_for, wait_until


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    done = espalier(store, "fetch-data", "DATA=pydoc")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{store}/data/pydoc\n"
    return store


def test_a_published_directory_is_described(made: Path) -> None:
    manifest = read_manifest(made / "data" / "pydoc")
    assert (manifest.contract, manifest.stage, manifest.name) == (CONTRACT, "corpus", "pydoc")
    assert {file.path for file in manifest.files} >= {"train.jsonl", "validation.jsonl"}
    assert manifest.peak_memory_bytes
    assert not list(made.glob("**/.run"))


def test_the_same_again_is_skipped(made: Path) -> None:
    before = tree(made)
    done = espalier(made, "fetch-data", "DATA=pydoc")
    assert done.returncode == 0
    assert not differing(tree(made), before)


def test_equal_runs_have_equal_content(made: Path, tmp_path: Path) -> None:
    assert espalier(tmp_path, "fetch-data", cold=True).returncode == 0
    one, other = (read_manifest(store / "data" / "pydoc") for store in (made, tmp_path))
    assert (one.fingerprint, one.content) == (other.fingerprint, other.content)


def altered(made: Path, store: Path, **sections: dict[str, object]) -> Path:
    """A copy of the store with its manifest's sections updated."""
    subprocess.run(["cp", "-r", made, store], check=True)
    path = store / "data" / "pydoc" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, values in sections.items():
        manifest[name] |= values
    path.write_text(json.dumps(manifest))
    return store


def test_another_recipe_under_the_same_name_is_an_error(made: Path, tmp_path: Path) -> None:
    store = altered(made, tmp_path / "store", recipe={"parameters": {"text": "verse"}})
    # `fetch-data` takes what has the name; only asking for the stage itself compares recipes.
    done = espalier(store, "corpus")
    refused(done, 2, "has other parameters or inputs", "TEXT verse there, pydoc here", "FORCE=1")
    assert espalier(store, "corpus", "FORCE=1").returncode == 0
    assert read_manifest(store / "data" / "pydoc").recipe.parameters == {"text": "pydoc"}


def test_what_is_there_is_made_anew_where_it_is_forced(made: Path, tmp_path: Path) -> None:
    """And stays until the new one is there."""
    store = altered(made, tmp_path / "store")
    target = store / "data" / "pydoc"
    first, seen = target.stat().st_ino, tree(store)
    assert "would run" in espalier(store, "corpus", "FORCE=1", "DRY_RUN=1").stdout
    for words in (("corpus",), ("fetch-data", "DATA=pydoc")):
        done = espalier(store, *words, "FORCE=1")
        assert done.returncode == 0, done.stderr
        assert "done already" not in done.stderr
        assert target.stat().st_ino != first
        first = target.stat().st_ino
        assert not differing(without_times(seen), without_times(tree(store)))
    assert espalier(store, "corpus").stderr.rstrip().endswith("is done already.")


def test_what_other_code_made_is_used_and_said_to_be(made: Path, tmp_path: Path) -> None:
    """As the first versions recorded it: code and lock were part of the recipe then."""
    old = {"code": "0" * 64, "lock": "1" * 64}
    store = altered(
        made, tmp_path / "store", recipe=old, code={"sha256": "0" * 64}, image={"lock": "1" * 64}
    )
    before = tree(store)
    done = espalier(store, "corpus", "ACCEL=cuda")
    (line,) = [line for line in done.stderr.splitlines() if "done already" in line]
    assert done.returncode == 0
    for text in ("other code (000000000000, now ", "other packages (lock 11", "FORCE=1 makes it"):
        assert text in line
    assert not differing(before, tree(store))
    shown = espalier(store, "corpus", "DRY_RUN=1")
    assert "done already, made by other code" in " ".join(shown.stdout.split())
    listed = espalier(store, "drift")
    assert "data/pydoc" in listed.stdout
    assert "1 of 1 results" in listed.stderr
    assert espalier(store, "corpus", "FORCE=1").returncode == 0
    assert "made by" not in espalier(store, "corpus").stderr
    listed = espalier(store, "drift")
    assert (listed.stdout, listed.returncode) == ("", 0)
    assert "0 of 1 results" in listed.stderr


def test_a_text_is_the_same_whatever_models_run_on(made: Path, tmp_path: Path) -> None:
    """It takes no GPU to make one, nor its packages, and what a processor made is used."""
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", made, store], check=True)
    done = espalier(store, "corpus", "ACCEL=cuda")
    assert done.returncode == 0, done.stderr
    assert done.stderr.rstrip().endswith("is done already.")
    anew = espalier(tmp_path / "other", "corpus", "ACCEL=cuda")
    assert anew.returncode == 0, anew.stderr
    one, other = (read_manifest(s / "data" / "pydoc") for s in (store, tmp_path / "other"))
    assert (one.fingerprint, one.image.lock) == (other.fingerprint, other.image.lock)
    assert other.environment["device"] == "cpu"


def test_verify_finds_a_changed_file(made: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", made, store], check=True)
    assert espalier(store, "verify", "CKPT=pydoc").returncode == 0
    path = store / "data" / "pydoc" / "train.jsonl"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused(espalier(store, "verify", "CKPT=pydoc"), 2, "train.jsonl is not what was published")


def test_dry_run_touches_nothing(tmp_path: Path) -> None:
    done = espalier(tmp_path / "store", "fetch-data", "DRY_RUN=1")
    assert done.returncode == 0
    assert not (tmp_path / "store").exists()
    for text in ("corpus (would run)", "espalier.run_stage", "available", "output"):
        assert text in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_75_and_the_same_command_goes_on(
    tmp_path: Path, made: Path, number: int
) -> None:
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", made, store], check=True)
    process = subprocess.Popen(
        command(store, "grow", "STEPS=100000"),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(store, "models/sapling.partial-*/metrics.jsonl", process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    assert not (store / "models" / "sapling").exists()
    assert len(list(store.glob("models/sapling.partial-*"))) == 1
    kept = espalier(store, "gc", "MIN_AGE=0")
    assert "can be resumed by the command that began it; ALL=1 removes it" in kept.stderr
    assert len(list(store.glob("models/sapling.partial-*"))) == 1
    would = espalier(store, "gc", "MIN_AGE=0", "ALL=1", "DRY_RUN=1")
    assert "would be removed" in would.stderr
    assert len(list(store.glob("models/sapling.partial-*"))) == 1
    assert espalier(store, "gc", "MIN_AGE=0", "ALL=1").returncode == 0
    assert not list(store.glob("models/*"))


def test_two_runs_of_one_name(tmp_path: Path, made: Path) -> None:
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", made, store], check=True)
    first = subprocess.Popen(
        command(store, "grow", "STEPS=100000", cold=True),
        env=quiet_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(store, "models/sapling.partial-*/metrics.jsonl", first)
        refused(
            espalier(store, "grow", "STEPS=100000", "WAIT=0"),
            3,
            f"models__sapling is being made by process {first.pid}",
        )
        kept = espalier(store, "gc", "MIN_AGE=0", "ALL=1")
        assert "is being worked on" in kept.stderr
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=60)


def test_the_host_dying_stops_the_stage(tmp_path: Path, made: Path) -> None:
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", made, store], check=True)
    host = subprocess.Popen(
        command(store, "grow", "STEPS=100000", cold=True),
        env=quiet_environment(),
        stderr=subprocess.DEVNULL,
    )
    wait_for(store, "models/sapling.partial-*/metrics.jsonl", host)
    host.kill()
    host.wait()
    metrics = next(store.glob("models/sapling.partial-*/metrics.jsonl"))
    wait_until(lambda: not _grows(metrics))


def _grows(path: Path) -> bool:
    before = path.stat().st_size
    time.sleep(1)
    return path.stat().st_size > before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fetch", "MODEL=llama9-7b"), 2, "MODEL=llama9-7b is not known"),
        (("fetch", "MODELL=x"), 2, "MODELL is not a parameter here"),
        (("fetch", "MODEL=./nowhere"), 2, "holds no config.json"),
        (("show", "CKPT=nothing"), 2, "is not on the store"),
        (("pipeline", "METHOD=prayer"), 2, "METHOD=prayer is not known"),
        (("prune-wanda", "NAME=../../x"), 2, "NAME=../../x cannot name an artifact"),
        (("fetch", "RUNTIME=kubernetes"), 2, "RUNTIME=kubernetes is not known"),
        (("adopt", "FROM=/nowhere", "NAME=x"), 2, "holds no config.json"),
        (("no-such-command",), 2, "No such command"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    store = tmp_path / "store"
    refused(espalier(store, *words), code, says)
    assert not store.exists()


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    refused(espalier(tmp_path / "store", "fetch-data"), 3, "cannot be written")
