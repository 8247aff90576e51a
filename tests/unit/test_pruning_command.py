"""What `make prune-<method>` and `make score-<method>` understand, before anything runs."""

import json
from pathlib import Path

import pytest

from espalier.contract.discovery import method_named, scorers
from espalier.errors import InputError
from espalier.host.commands.pruning import PruningCommand, known_names
from tests.contract.command import espalier, refused
from tests.tiny import SHAPE


@pytest.mark.parametrize(
    ("method", "words", "says"),
    [
        ("shortgpt", {"LAYERS": "3", "SPARSITY": "0.5"}, "SPARSITY is not a parameter here"),
        ("shortgpt", {"LAYERS": "3", "SPARSITY": "0.5"}, "known: BATCH, LAYERS, PARAMS, SAMPLES"),
        ("shortgpt", {}, "say what is to be left"),
        ("shortgpt", {"LAYERS": "0"}, "LAYERS=0 should be greater than or equal to 1"),
        ("magnitude", {"CALIBRATION": "c4"}, "uses no calibration"),
        ("wanda", {"SCORES": "x/y"}, "wanda uses no scores"),
        ("shortgpt", {"LAYERS": "3", "SCORES": "x/y", "SAMPLES": "8"}, "leave out SAMPLES, or"),
        ("shortgpt", {"LAYERS": "3", "SCORES": "x/y", "STEPS": "2"}, "leave out STEPS, or"),
        ("minitron-depth", {"LAYERS": "3", "CHOICE": "first"}, "CHOICE=first should be 'closest'"),
    ],
)
def test_what_is_refused(method: str, words: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as refusal:
        PruningCommand.parse(method, words)
    assert says in str(refusal.value)


def test_words_go_to_the_stage_that_knows_them() -> None:
    words = {"MODEL": "m", "LAYERS": "3", "CHOICE": "best", "SAMPLES": "8", "SCORE": "winogrande"}
    command = PruningCommand.parse("minitron-depth", words)
    assert command.parameters.model_dump(exclude_defaults=True) == {"layers": 3, "choice": "best"}
    assert command.scoring == {"depth_scores": {"SAMPLES": "8", "SCORE": "winogrande"}}
    assert command.sources.model == "m"


def test_every_method_says_its_names() -> None:
    assert {"LAYERS", "SCORE", "SHOTS", "CHOICE"} <= known_names(method_named("minitron-depth"))
    assert "score-shortgpt" in scorers()
    assert all(name.startswith("score-") for name in scorers())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model as far as a plan looks at it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **SHAPE}))
    return folder


@pytest.mark.parametrize(
    ("method", "words", "says"),
    [
        ("shortgpt", ("LAYERS=3",), "LAYERS=3 layers cannot be left of 3"),
        ("minitron-depth", ("LAYERS=7",), "give 1 to 2"),
        ("minitron-width", ("HIDDEN=31",), "HIDDEN=31 is not a multiple of the 4 heads"),
        ("minitron-width", ("HIDDEN=64",), "HIDDEN=64 is above the parent's 32"),
        ("minitron-width", ("HEADS=3",), "HEADS=3 is not divisible by KV_HEADS=2"),
        ("minitron", ("PARAMS=1B",), "PARAMS=1000000000 is not below the parent's"),
        ("sleb", ("LAYERS=1",), "EARLY_BARRIER=1 and LATTER_BARRIER=1 leave 1 that may be; give"),
        ("sleb", ("LAYERS=2", "LATTER_BARRIER=2"), "leave none of 3 layers that may be removed"),
        ("shortened-llama", ("LAYERS=1",), "2 of 3 blocks are to go and PROTECT=scaled lets 1"),
        ("shortgpt", ("LAYERS=2", "SCORES=none/such"), "SCORES=none/such is not on the store"),
    ],
)
def test_what_the_parent_cannot_give(
    tmp_path: Path, model: Path, method: str, words: tuple[str, ...], says: str
) -> None:
    done = espalier(tmp_path / "store", f"prune-{method}", f"MODEL={model}", "SUITE=none", *words)
    refused(done, 2, says)
    assert not (tmp_path / "store" / "checkpoints").exists()


def test_the_candidates_of_params_are_printed(tmp_path: Path, model: Path) -> None:
    words = ("prune-minitron", f"MODEL={model}", "PARAMS=20K", "SUITE=none", "DRY_RUN=1")
    done = espalier(tmp_path / "store", *words, "CALIBRATION=pydoc")
    assert done.returncode == 0, done.stderr
    assert "PARAMS=20,000: within 3% the sizes that shrink most evenly, first" in done.stderr
    assert "KV cache of 1024 tokens" in done.stderr
    assert "score-minitron-width (waits for" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("checkpoints/model-minitron-20K")


def test_steps_are_a_chain_of_prunings(tmp_path: Path, model: Path) -> None:
    words = ("prune-minitron-depth", f"MODEL={model}", "LAYERS=1", "STEPS=2", "SUITE=none")
    done = espalier(tmp_path / "store", *words, "DRY_RUN=1", "CALIBRATION=pydoc")
    assert done.returncode == 0, done.stderr
    first = f"{tmp_path}/store/checkpoints/model-minitron-depth-1-steps2-step1of2"
    outputs = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("output")]
    assert outputs == [
        f"{tmp_path}/store/data/pydoc",
        f"{tmp_path}/store/scores/model/minitron-depth-pydoc-ppl-2",
        first,
        f"{tmp_path}/store/scores/model-minitron-depth-1-steps2-step1of2/minitron-depth-pydoc-ppl-1",
        f"{tmp_path}/store/checkpoints/model-minitron-depth-1-steps2",
    ]
    assert (
        f"input model           {first}" in " ".join(done.stdout.split("  "))
        or first in done.stdout
    )


def test_a_search_alone_is_refused_before_a_text_is_fetched(tmp_path: Path, model: Path) -> None:
    done = espalier(tmp_path / "store", "score-sleb", f"MODEL={model}", "LAYERS=1")
    refused(done, 2, "EARLY_BARRIER=1 and LATTER_BARRIER=1 leave 1 that may be; give LAYERS=2")
