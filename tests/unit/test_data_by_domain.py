"""The stage `data` with DOMAINS=1: each domain is as by itself, wherever a run was cut short."""

import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from espalier.contract.progress import Progress
from espalier.contract.saved import noted
from espalier.contract.stage import Outcome, StageContext
from espalier.data.tokenizing import Tokenizing
from espalier.data.tokens import DOMAINS, INDEX
from espalier.data.tokens.domains import read_domains
from espalier.errors import InputError
from inputs.data import stage, stream
from inputs.data.packing import place_of
from inputs.data.spec import DataParameters
from inputs.data.work import Work
from tests.contract.command import differing, tree
from tests.tiny import tiny_llama

BY_DOMAIN = {"valid": 0.2, "test": 0.1, "shard": 300}
SIZES = {"book": 23, "c4-rp": 31, "wiki": 17}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tokenizing(model: Path) -> Tokenizing:
    return Tokenizing.of(model)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains that are folders and one that is a file, with an empty document each."""
    folder = tmp_path_factory.mktemp("text")
    for name, documents in SIZES.items():
        lines = [json.dumps({"text": f"{name} has {n} quick foxes"}) for n in range(documents)]
        lines.append(json.dumps({"text": ""}))
        half = documents // 2
        if name == "wiki":
            (folder / "wiki.jsonl").write_text("\n".join(lines))
            continue
        (folder / name).mkdir()
        (folder / name / "0.jsonl").write_text("\n".join(lines[:half]))
        (folder / name / "1.jsonl").write_text("\n".join(lines[half:]))
    (folder / "README.md").write_text("# Three domains")
    return folder


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch, tokenizing: Tokenizing) -> None:
    """And one tokenizer, which takes longer to read than to use."""
    monkeypatch.setattr(stream, "BLOCK_DOCUMENTS", 5)
    monkeypatch.setattr(Tokenizing, "of", lambda model: tokenizing)


def context(folder: Path, text: Path, model: Path) -> StageContext:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    inputs = {"text": text, "tokenizer": model}
    return StageContext(inputs, folder / "output", folder / "scratch", "cpu", Progress())


def make(folder: Path, text: Path, model: Path, domains: bool = True, **words: Any) -> Outcome:
    return stage.run(
        context(folder, text, model), DataParameters(domains=domains, **{**BY_DOMAIN, **words})
    )


@pytest.fixture
def made(tmp_path: Path, text: Path, model: Path) -> tuple[Path, Outcome]:
    return tmp_path / "whole" / "output", make(tmp_path / "whole", text, model)


def test_a_domain_has_the_bytes_that_it_has_as_the_only_text(
    tmp_path: Path, made: tuple[Path, Outcome], text: Path, model: Path
) -> None:
    output, outcome = made
    assert {path.name for path in output.iterdir()} == {*SIZES, DOMAINS}
    for name in SIZES:
        alone = text / (name if name != "wiki" else "wiki.jsonl")
        one = make(tmp_path / name, alone, model, domains=False)
        assert not differing(tree(tmp_path / name / "output"), tree(output / name))
        record = (outcome.data or {})["domains"][name]
        assert record == {key: (one.data or {})[key] for key in ("tokens", "documents", "sha256")}


def test_the_manifest_has_each_domain_and_their_sums(made: tuple[Path, Outcome]) -> None:
    output, outcome = made
    record = outcome.data or {}
    found = read_domains(output)
    assert list(found) == list(record["domains"]) == sorted(SIZES)
    for split in ("train", "valid", "test"):
        tokens, documents = zip(*(data.counts(split) for data in found.values()), strict=True)
        assert record["tokens"][split] == sum(tokens)
        assert record["documents"][split] == sum(documents)
    assert sum(record["documents"].values()) == sum(SIZES.values())
    notes = outcome.notes
    assert {
        name: its["empty_documents"] for name, its in notes["domains"].items()
    } == dict.fromkeys(SIZES, 1)
    assert notes["domains"]["book"]["files"] == {"train": 2}
    assert notes["files_left_out"] == ["README.md"]


def stopping(at: int, stock: Callable[..., Any]) -> Callable[..., Any]:
    """`stock` until its `at`-th call, which is an interruption before it does anything."""
    calls = count()

    def stop(*given: Any, **named: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return stock(*given, **named)

    return stop


CALLS = [
    (stream.Packing, "_pack", 17),
    (Work, "save", 20),
    (Work, "hashed", 3),
    (Work, "move", 3),
]
"""Methods, and how often a whole run calls each."""


@pytest.mark.parametrize("called", CALLS, ids=lambda called: called[1])
def test_interrupted_anywhere_and_resumed_is_as_whole(
    tmp_path: Path,
    made: tuple[Path, Outcome],
    text: Path,
    model: Path,
    called: tuple[Any, str, int],
) -> None:
    kind, method, calls = called
    stock, whole = getattr(kind, method), tree(made[0])
    for at in (*range(0, calls, 1 + calls // 5), calls - 1, calls):
        folder = tmp_path / f"{method}-{at}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, method, stopping(at, stock))
            if at == calls:  # there are no more
                make(folder, text, model)
                continue
            with pytest.raises(KeyboardInterrupt):
                make(folder, text, model)
        again = make(folder, text, model)
        assert not differing(tree(folder / "output"), whole)
        assert again.data == made[1].data
        assert again.notes["domains"] == made[1].notes["domains"]


def test_what_is_packed_is_not_packed_again(tmp_path: Path, text: Path, model: Path) -> None:
    stock = stream.Packing._pack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.Packing, "_pack", stopping(8, stock))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, text, model)
    # book has 3 + 3 blocks of 5 documents, and two of c4-rp's first file are there
    assert noted(tmp_path / "scratch") == "document 11 of file 1 of domain c4-rp"
    blocks = count()
    with pytest.MonkeyPatch.context() as patch:
        counted = lambda *given: (next(blocks), stock(*given))[1]  # noqa: E731
        patch.setattr(stream.Packing, "_pack", counted)
        make(tmp_path, text, model)
    assert next(blocks) == 17 - 8


def test_tokens_are_of_each_domain(tmp_path: Path, text: Path, model: Path) -> None:
    make(tmp_path, text, model, tokens=100)
    for data in read_domains(tmp_path / "output").values():
        *before, last = (len(ids) for ids in data.documents("train"))
        assert sum(before) < 100 <= sum(before) + last


def test_the_valid_that_a_refusal_names_is_the_least(
    tmp_path: Path, text: Path, model: Path
) -> None:
    with pytest.raises(InputError, match="domain book is held out") as refused:
        make(tmp_path / "none", text, model, valid=0)
    (least,) = re.findall(r"give VALID=(0\.\d{1,3}) or more", str(refused.value))
    places = [place_of(f"book has {n} quick foxes") for n in range(SIZES["book"])]
    assert float(least) - 0.001 <= min(places) < float(least)
    with pytest.raises(InputError, match=f"domain book .* give VALID={least} or more"):
        make(tmp_path / "less", text, model, valid=float(least) - 0.001)
    make(tmp_path / "enough", text, model, valid=float(least))
    assert read_domains(tmp_path / "enough" / "output")["book"].counts("valid")[1] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"valid": 0}, "no document of domain book is held out for valid, by which each domain"),
        ({"tokens": 100_000}, r"TOKENS=100000 are more than the \d+ training tokens of domain"),
        ({"valid": 0.98, "test": 0.019}, "no document of domain book is for training"),
    ],
)
def test_a_domain_that_lacks_a_part_is_refused_by_name(
    tmp_path: Path, text: Path, model: Path, words: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        make(tmp_path, text, model, **words)
    assert not list((tmp_path / "output").rglob(INDEX))
