"""`make reproduce-<method>`: its plan as a user sees it, and one chain up to the table."""

import json
import re
from pathlib import Path

import pytest

from espalier.contract.reproduction import reproducible
from tests.contract.command import espalier, refused
from tests.sapling import with_sapling
from tests.sheared.shearing import three_domains
from tests.tiny import tiny_llama


@pytest.mark.parametrize("name", reproducible())
def test_the_plan_is_said_with_what_it_takes_and_nothing_is_made(name: str, tmp_path: Path) -> None:
    """For sapling, which is not there; the READMEs' commands are for the papers' models."""
    store, given = tmp_path / "store", [["MODEL=sapling"]]
    if name == "sheared-llama":
        domains = f"DOMAIN_DATA={three_domains(tmp_path, tiny_llama(tmp_path / 'tiny'))}"
        given = [["MODEL=sapling", domains], [domains]]
    for words in given:
        done = espalier(store, f"reproduce-{name}", "DRY_RUN=1", *words)
        assert done.returncode == 0, done.stderr
        assert re.search(r"in all +│ +\d+ │.*(min|h)\b.*│.*GiB", done.stdout), done.stdout
        assert done.stdout.count("(would run)") >= 1
        assert "published" not in done.stderr
    assert not store.exists()


def test_a_gpu_is_counted_with(tmp_path: Path) -> None:
    words = ("reproduce-wanda", "DRY_RUN=1", "ACCEL=cuda")
    done = espalier(tmp_path / "store", *words, "GPU=a100-80")
    assert done.returncode == 0, done.stderr
    assert "on one a100-80 at 30% of its peak, and two cores" in " ".join(done.stdout.split())
    refused(espalier(tmp_path / "store", *words, "GPU=abacus"), 2, "GPU=abacus is not known")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ONLY=3:4",), "ONLY=3:4 is no row of llama2-7b here; there are dense, 0.5, 4:8, 2:4."),
        (("CKPT=x",), "CKPT is not a parameter here"),
        (("SAMPLES=0",), "SAMPLES=0 should be greater than or equal to 1"),
        (("MODEL=nothing",), "MODEL=nothing is not known"),
    ],
)
def test_bad_words_are_refused_before_anything_is_made(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    refused(espalier(tmp_path / "store", "reproduce-wanda", *words), 2, said)
    assert not (tmp_path / "store").exists()


def test_what_cannot_fit_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Not only when the stage comes that is too large: here the first is small enough."""
    done = espalier(tmp_path / "store", "reproduce-magnitude", "MODEL=sapling", "MEMORY=2g")
    refused(done, 3, "about 3.00 GiB of memory is needed and 2.00 GiB is available")
    assert "in all" in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_chain_from_the_model_to_the_table(tmp_path: Path) -> None:
    """On sapling: costs first, three prunings, four evaluations, the table, the report's files."""
    store, words = with_sapling(tmp_path / "store"), ("MODEL=sapling", "SAMPLES=8")
    asked = ("reproduce-magnitude", "MODEL=sapling")
    nothing = "nothing of this table is on the store yet"
    refused(espalier(store, *asked, "TABLE=1"), 2, nothing)
    refused(espalier(store, *asked, "NAME=../x"), 2, "NAME=../x cannot name an artifact")
    done = espalier(store, *asked)
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stderr.partition("in all")
    assert "Expected, of what is not there yet, on two cores" in " ".join(first.split())
    assert "prune-2-4" in first
    assert re.search(r"│ 2:4 +│ perplexity/pydoc ppl +│ +[\d.]+ │", rest), rest
    report = store / "reports" / "reproduce-magnitude-sapling"
    assert done.stdout.splitlines()[-1] == str(report)
    assert {path.name for path in report.iterdir()} == {
        "cards", "report.csv", "report.html", "report.md",
    }  # fmt: skip
    assert "sapling, not of the paper" in (report / "report.md").read_text()
    results = store / "evals" / "sapling-magnitude-2of4-as-in-paper" / "pydoc-512" / "results.json"
    assert "perplexity/pydoc" in json.loads(results.read_text())["results"]

    again = espalier(store, *asked)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is done already") == 7  # three prunings, four evaluations
    table = espalier(store, *asked, "TABLE=1")
    assert table.stderr.count("perplexity/pydoc ppl") == 4
    assert "is done already" not in table.stderr
    # Of other words another result, beside the first.
    other = espalier(store, "reproduce-wanda", "ONLY=2:4", *words)
    assert other.returncode == 0, other.stderr
    assert (store / "checkpoints" / "sapling-wanda-2of4-as-in-paper-samples-8").is_dir()
