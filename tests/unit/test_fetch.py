"""Fetching, against a local server that speaks the hub's API.

The hub's client reads its variables at import, so every fetch runs in a process of its own.
"""

import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lm_eval", reason="fetching runs in the image eval")

from espalier.contract.paths import ROOT
from espalier.errors import InputError
from inputs.fetch.datasets import training_files
from inputs.fetch.files import wanted
from tests.unit.hub_server import COMMIT, Hub, serve

RUN = """
import json, sys
from pathlib import Path
from espalier.contract.discovery import stage_named
from espalier.errors import EspalierError
from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
import importlib
stage, output, given = stage_named(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
context = StageContext({}, output / "out", output / "scratch", "cpu", Progress())
module, _, function = stage.entry.partition(":")
try:
    parameters = stage.parameters.from_assignments(given)
    outcome = getattr(importlib.import_module(module), function)(context, parameters)
    print(json.dumps([outcome.notes, outcome.data]))
except EspalierError as error:
    print(error)
    sys.exit(error.exit_code)
"""

MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer.json": b"{}",
    "README.md": b"read me",
    "original/consolidated.00.pth": b"pickle",
    "pytorch_model.bin": b"pickle",
}


ROWS = [
    {"instruction": "Say a.", "input": "", "output": "a", "source": "x"},
    {"output": "b\u2028", "instruction": "Say it.", "input": "b"},
]


def parquet(texts: list[str]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as files

    buffer = io.BytesIO()
    files.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


def json_lines(texts: list[str]) -> bytes:
    return gzip.compress("".join(json.dumps({"text": t, "url": ""}) + "\n" for t in texts).encode())


def zstandard_lines(texts: list[str]) -> bytes:
    import pyarrow as pa

    lines = gzip.decompress(json_lines(texts))
    return pa.compress(lines, codec="zstd", asbytes=True)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    wikitext = {
        f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet": parquet(["", " = A = \n", split])
        for split in ("train", "validation", "test")
    }
    c4 = {
        "en/c4-train.00000-of-01024.json.gz": json_lines(["a", "b\u2028c"]),
        "en/c4-train.00001-of-01024.json.gz": json_lines(["never"]),
        "en/c4-validation.00000-of-00008.json.gz": json_lines(["d"]),
    }
    shards = "global-shard_01_of_10/local-shard_0_of_10/shard_0000000"
    dclm = {
        f"{shards}0_processed.jsonl.zst": zstandard_lines(["a", "b"]),
        f"{shards}1_processed.jsonl.zst": zstandard_lines(["c"]),
    }
    contents = {
        "models/org/plain": MODEL,
        "models/org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
        "models/org/gated": MODEL,
        "models/org/broken": {**MODEL, "model-2.safetensors": b"x"},
        "datasets/Salesforce/wikitext": wikitext,
        "datasets/allenai/c4": c4,
        "datasets/mlfoundations/dclm-baseline-1.0": dclm,
        "datasets/yahma/alpaca-cleaned": {"alpaca_data_cleaned.json": json.dumps(ROWS).encode()},
        "datasets/org/answers": {"data.json": json.dumps(ROWS).encode()},
        "datasets/org/text": {
            "test.parquet": parquet(["never"]),
            "all.parquet": parquet(["a", "b"]),
        },
    }
    hub = Hub(contents, gated={"models/org/gated"}, broken={"model-2.safetensors"})
    with serve(hub) as served:
        yield served


def fetch(
    url: str, folder: Path, stage: str, token: Path | None = None, **given: str
) -> tuple[int, str]:
    """Exit code and the last line of stdout of a stage in a process of its own."""
    for name in ("out", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()
    }
    environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "NO_PROXY": "*"}
    if token:
        environment["HF_TOKEN_PATH"] = str(token)
    command = [sys.executable, "-c", RUN, stage, str(folder), json.dumps(given)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (done.stdout.strip().splitlines() or [""])[-1]


def test_a_model_lands_in_its_directory_alone(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch", MODEL="org/plain")
    assert code == 0, said
    notes, _ = json.loads(said)
    assert notes == {
        "hub_id": "org/plain",
        "revision": "main",
        "commit": COMMIT,
        "pretraining_tokens": None,
    }
    kept = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == kept
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert not any("pickle" in asked or ".pth" in asked for asked in hub.asked)


@pytest.mark.parametrize("name", ["alpaca", "org/answers"])
def test_instructions_stay_instructions(hub: Hub, tmp_path: Path, name: str) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch-data", DATA=name)
    assert code == 0, said
    assert json.loads(said)[1]["documents"] == {"train": 2}
    lines = (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    columns = ["instruction", "input", "output"]
    assert rows == [{column: row[column] for column in columns} for row in ROWS]
    assert list(rows[1]) == columns


def test_what_was_fetched_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert fetch(hub.url, tmp_path, "fetch", MODEL="org/broken")[0] == 3
    before = len(hub.asked)
    hub.broken.clear()
    assert fetch(hub.url, tmp_path, "fetch", MODEL="org/broken")[0] == 0
    again = [asked for asked in hub.asked[before:] if asked.endswith("/model.safetensors")]
    assert not [asked for asked in again if asked.startswith("GET")]


def test_pickled_weights_are_refused(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch", MODEL="org/pickled")
    assert code == 2
    assert "only pytorch_model.bin" in said


def test_a_gated_model_asks_for_its_licence(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch", MODEL="org/gated")
    assert code == 2
    assert "accept its licence" in said
    assert "HF_TOKEN" in said
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    assert fetch(hub.url, tmp_path, "fetch", wrong, MODEL="org/gated")[0] == 2
    right = tmp_path / "right"
    right.write_text("right\n")
    assert fetch(hub.url, tmp_path, "fetch", right, MODEL="org/gated")[0] == 0
    assert fetch(hub.url, tmp_path, "fetch", tmp_path / "absent", MODEL="org/gated")[0] == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"MODEL": "org/plain", "REVISION": "v9"}, "no revision v9"),
        ({"MODEL": "org/absent"}, "not on the hub"),
        ({"MODEL": "unheard"}, "not known"),
        ({"MODEL": "sapling"}, "grown"),
    ],
)
def test_what_is_not_there_is_bad_input(
    hub: Hub, tmp_path: Path, given: dict[str, str], words: str
) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch", **given)
    assert code == 2
    assert words in said
    assert not list((tmp_path / "out").iterdir())


def test_no_network_is_said_soon(tmp_path: Path) -> None:
    began = time.monotonic()
    code, said = fetch("http://127.0.0.1:9", tmp_path, "fetch", MODEL="llama-7b")
    assert code == 3
    assert "does not answer" in said
    assert time.monotonic() - began < 60  # most of it is Python starting on a busy machine


def test_texts_land_in_the_stores_layout(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch-data", DATA="wikitext2", REVISION="main")
    assert code == 0, said
    _, data = json.loads(said)
    assert data["revision"] == COMMIT
    assert data["documents"] == {"train": 3, "validation": 3, "test": 3}
    lines = (tmp_path / "out" / "test.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["", " = A = \n", "test"]
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["calibration"]["join"] == " "
    assert described["perplexity"]["join"] == "\n\n"


def test_only_the_first_shard_of_c4_is_fetched(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch-data", DATA="c4", REVISION="main")
    assert code == 0, said
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["dataset.json", "train.jsonl", "validation.jsonl"]
    lines = (tmp_path / "out" / "train.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a", "b\u2028c"]


def test_as_many_files_as_asked_are_fetched(hub: Hub, tmp_path: Path) -> None:
    given = {"DATA": "dclm", "REVISION": "main"}
    assert fetch(hub.url, tmp_path, "fetch-data", **given)[0] == 0
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a", "b"]
    more = tmp_path / "more"
    more.mkdir()
    assert fetch(hub.url, more, "fetch-data", **given, FILES="2")[0] == 0
    lines = (more / "out" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a", "b", "c"]


def test_any_text_of_the_hub_is_fetched_by_its_id(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch-data", DATA="org/text")
    assert code == 0, said
    _, data = json.loads(said)
    assert (data["source"], data["revision"]) == ("org/text", COMMIT)
    assert data["documents"] == {"train": 2}


def test_training_files_are_known_by_their_names() -> None:
    files = ["README.md", "infos.json", "data/test-0.parquet", "data/train-0.parquet"]
    assert training_files(files) == ["data/train-0.parquet"]
    assert training_files(["a.jsonl", "b.jsonl.zst", "valid.jsonl"]) == ["a.jsonl", "b.jsonl.zst"]


def test_an_unknown_text_names_the_known(hub: Hub, tmp_path: Path) -> None:
    code, said = fetch(hub.url, tmp_path, "fetch-data", DATA="c5")
    assert code == 2
    assert "c4, wikitext2, wikitext103, pg19, bookcorpus" in said


def test_a_consolidated_copy_is_left_out() -> None:
    files = ("config.json", "consolidated.safetensors", "model-00001-of-00001.safetensors")
    assert wanted(files, "a/b") == ["config.json", "model-00001-of-00001.safetensors"]
    with pytest.raises(InputError, match="no weights"):
        wanted(("config.json",), "a/b")
    with pytest.raises(InputError, match=r"no config\.json"):
        wanted(("model.safetensors",), "a/b")
