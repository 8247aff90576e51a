"""What files say of methods and parameters is what the folders hold."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import results
from espalier.contract.discovery import methods, scorers, stage_named, stages
from espalier.contract.paths import ROOT
from espalier.contract.stage import Stage
from espalier.errors import InputError
from espalier.host.cli import reproduce
from espalier.host.cli.report import ReportWords
from espalier.host.cli.tidy import GcWords
from espalier.host.commands import reproduction
from espalier.host.describe import describe, parameter_rows
from espalier.host.listings import EVERYWHERE, LISTINGS, folder_of, write_listings
from espalier.host.settings import NAMES
from espalier.host.words import Command, command_named
from tests.unit.rendering import rendered

ENVIRONMENT = {
    *("BASE_IMAGE", "BASE_IMAGE_MAXTEXT", "CA_BUNDLE", "WHEELS", "TO", "FORCE"),
    *("TESTS", "SLOW", "FRESH", "ESPALIER_CONTAINER_TESTS", "ESPALIER_CI_CACHE"),
}
"""What builds and tests take from the environment."""
COMMANDS = {stage.name: Command.of(stage) for stage in stages().values()}
KNOWN = frozenset().union(*(command.words for command in COMMANDS.values())) | NAMES | ENVIRONMENT
KNOWN |= GcWords.words() | ReportWords.words() | set(results.WORDS)
KNOWN |= {*reproduce.WORDS, *reproduction.OWN}
KNOWN |= {"TRAIN", *(f"TRAIN_{word}" for word in KNOWN)}  # a pipeline's
each_stage = pytest.mark.parametrize("name", stages())


def test_the_lists_of_methods_are_current() -> None:
    assert write_listings(check=True) == [], "run make listings"


def test_a_list_that_is_not_current_is_written_again(tmp_path: Path) -> None:
    for file in {listing.file for listing in LISTINGS}:
        text = (ROOT / file).read_text()
        (tmp_path / file).write_text(text.replace("wanda", "gone"))
    assert write_listings(tmp_path, check=True) == list(
        dict.fromkeys(listing.file for listing in LISTINGS)
    )
    assert "x-pruned" in (tmp_path / "docker-compose.yml").read_text()
    write_listings(tmp_path)
    assert write_listings(tmp_path, check=True) == []
    written = (tmp_path / "docker-compose.yml").read_text()
    assert "METHOD=wanda" in written
    assert "--profile gone" in written  # what is written by hand stays as it is


def test_a_file_without_a_place_for_its_list_is_told(tmp_path: Path) -> None:
    for file in {listing.file for listing in LISTINGS}:
        (tmp_path / file).write_text("services: {}\n")
    with pytest.raises(InputError, match=r"docker-compose.yml has no place for variables; put it"):
        write_listings(tmp_path)


def test_compose_stays_short() -> None:
    """Also with as many methods again: two lines each."""
    assert len((ROOT / "docker-compose.yml").read_text().splitlines()) < 200


@each_stage
def test_every_parameter_is_described(name: str) -> None:
    rows = parameter_rows(stage_named(name).parameters)
    assert rows.keys() == stage_named(name).parameters.words()
    assert [word for word, (_, _, text) in rows.items() if not text] == []


@each_stage
def test_help_has_every_word(name: str) -> None:
    command = COMMANDS[name]
    lines = rendered(describe(command)).splitlines()
    assert {line.split()[0] for line in lines if line} >= command.words
    assert f"make {command.name} [NAME=value ...]" in lines


def test_help_says_defaults_and_bounds() -> None:
    rows = parameter_rows(stage_named("wanda").parameters)
    assert rows["SPARSITY"][:2] == ("0.5", "> 0, < 1")
    assert rows["VARIANT"][:2] == ("0", "0 or 1")
    assert rows["SEQLEN"][:2] == ("", "≥ 2")
    rows = parameter_rows(stage_named("train-gpu").parameters)
    assert rows["TRACKER"][:2] == ("tensorboard", "none, tensorboard, wandb")
    assert parameter_rows(stage_named("plan-tpu").parameters)["TPU"][0] == "(needed)"


def test_a_command_is_named_by_its_stage_too() -> None:
    assert command_named("wanda") == command_named("prune-wanda")
    with pytest.raises(InputError, match=r"prune-eval is not a stage; there are .*magnitude, "):
        command_named("prune-eval")


def readme_of(stage: Stage) -> Path:
    return ROOT / folder_of(stage) / "README.md"


def tabled(text: str) -> Iterator[str]:
    """The words in the first column of a README's tables of parameters."""
    heading = r"^\| *(?:Parameter|variable) *\|.*\n\|[-|: ]+\n((?:\|.*\n)+)"
    for table in re.findall(heading, text, re.MULTILINE):
        for row in table.splitlines():
            yield from re.findall(r"`([A-Z][A-Z0-9_]+)[`=]", row.split("|")[1])


@pytest.mark.parametrize("folder", sorted({folder_of(stage) for stage in methods().values()}))
def test_a_methods_readme_lists_what_its_spec_has(folder: str) -> None:
    here = [s for s in (*methods().values(), *scorers().values()) if folder_of(s) == folder]
    words = frozenset().union(*(Command.of(stage).words for stage in here))
    listed = set(tabled((ROOT / folder / "README.md").read_text()))
    assert listed == words - {"MODEL", *EVERYWHERE}


@pytest.mark.parametrize("name", [name for name in stages() if readme_of(stages()[name]).is_file()])
def test_a_stages_readme_names_its_parameters_or_says_where_they_are(name: str) -> None:
    stage, text = stage_named(name), readme_of(stage_named(name)).read_text()
    unnamed = {w for w in stage.parameters.words() if not re.search(rf"\b{w}\b", text)}
    assert not unnamed or f"make help-{name}" in text, unnamed


READMES = sorted({readme_of(stage) for stage in stages().values()})


@pytest.mark.parametrize(
    "readme",
    [ROOT / "README.md", *(readme for readme in READMES if readme.is_file())],
    ids=lambda path: path.parent.name,
)
def test_no_readme_has_a_word_that_nothing_takes(readme: Path) -> None:
    text = readme.read_text()
    assigned = set(re.findall(r"\b([A-Z][A-Z0-9_]+)=[\w<…~./]", text))
    assert (assigned | set(tabled(text))) - KNOWN == set()


def test_the_readmes_own_rows_name_what_their_targets_take() -> None:
    """The rows of the other stages are written by hand."""
    text = (ROOT / "README.md").read_text()
    for targets, words in re.findall(r"^\| (`make .*?) \|.*\| `([A-Z_ ]+)`.* \|$", text, re.M):
        named = re.findall(r"`make ([\w-]+)`", targets)
        taken = [COMMANDS[name].words for name in named if name in COMMANDS]
        if taken and len(taken) == len(named):
            assert set(words.split()) <= frozenset().union(*taken) | NAMES, targets
