from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from espalier.contract.discovery import stages
from espalier.contract.measure import parse_size
from espalier.contract.parameters import parse_count
from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.host.settings import read_settings, split_assignments
from espalier.pruning.parameters import SparsityParameters


@given(st.integers(1, 16), st.integers(1, 16))
def test_patterns_are_read_back(zeroed: int, group: int) -> None:
    text = f"{zeroed}:{group}"
    if zeroed < group:
        assert str(Pattern.parse(text)) == text
        assert Pattern.parse(text).sparsity == zeroed / group
    else:
        with pytest.raises(InputError, match="0 < N < M"):
            Pattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "width", "fits"),
    [("2:4", 172, True), ("2:4", 174, False), ("4:8", 172, True), ("5:8", 172, False),
     ("1:2", 3, False), ("unstructured", 7, True)],
)  # fmt: skip
def test_widths(pattern: str, width: int, fits: bool) -> None:
    if fits:
        Pattern.parse(pattern).check_width("w", width)
    else:
        with pytest.raises(InputError, match="w: its"):
            Pattern.parse(pattern).check_width("w", width)


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        ({"SPARSITY": "1.5"}, "SPARSITY=1.5 should be less than 1"),
        ({"SPARSITY": "0"}, "greater than 0"),
        ({"SPARSITY": "half"}, "SPARSITY=half"),
        ({"PATTERN": "5:4"}, "0 < N < M"),
        ({"PATTERN": "2:4", "SPARSITY": "0.6"}, "contradicts"),
        ({"SPARSTIY": "0.5"}, "SPARSTIY is not a parameter here"),
    ],
)
def test_bad_parameters_are_named(assignments: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SparsityParameters.from_assignments(assignments)


def test_a_pattern_sets_the_sparsity_and_the_name() -> None:
    given_pattern = SparsityParameters.from_assignments({"PATTERN": "2:4", "SPARSITY": "0.5"})
    assert (given_pattern.sparsity, given_pattern.label()) == (0.5, "2of4")
    assert SparsityParameters.from_assignments({"PATTERN": "1:4"}).sparsity == 0.25
    assert SparsityParameters.from_assignments({"SPARSITY": "0.7"}).label() == "0.7"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("700000", 700_000), ("1e6", 10**6), ("1.5e6", 1_500_000), ("1E6", 10**6), ("+7", 7),
        ("1,000", 1000), ("12,345,678", 12_345_678), ("1_000", 1000), ("700K", 700_000),
        ("2.5B", 2_500_000_000), ("52.4288b", 52_428_800_000), ("1T", 10**12), ("15t", 15 * 10**12),
        (".5M", 500_000), ("1,500K", 1_500_000), ("0.3333333333B", 333_333_333), ("-3", -3),
    ],
)  # fmt: skip
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@given(st.integers(0, 10**15), st.sampled_from([("", 0), ("K", 3), ("M", 6), ("B", 9), ("T", 12)]))
def test_a_count_is_read_exactly(count: int, unit: tuple[str, int]) -> None:
    letter, digits = unit
    padded = str(count).rjust(digits + 1, "0")
    text = (
        f"{padded[: len(padded) - digits]}.{padded[len(padded) - digits :]}" if digits else padded
    )
    assert parse_count(f"{text}{letter}") == count
    assert parse_count(f"{count:,}") == count


@pytest.mark.parametrize(
    "text",
    ["inf", "nan", "-inf", "infB", "nanK", "Infinity", "1e999", "1e19", "1000000T", "1.5", "B",
     "e6", "1,5B", "1,0000", "1e", "4G", "many", "1e6.5", "0x10"],
)  # fmt: skip
@pytest.mark.parametrize("word", ["train-gpu TOKENS", "train-tpu VALID_TOKENS", "data SHARD"])
def test_no_counts(word: str, text: str) -> None:
    stage, name = word.split()
    with pytest.raises(InputError, match=rf"^{name}={text.replace('.', '[.]')} is [^\n]*\.$"):
        stages()[stage].parameters.from_assignments({name: text})


def _types(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "Infinity", "1e999"])
def test_no_number_of_any_stage_is_infinite(value: str) -> None:
    """Each number that may be given, of every stage, refuses it in one sentence."""
    tried = 0
    for stage in stages().values():
        for name, about in stage.parameters.model_fields.items():
            if not {int, float} & set(_types(about.annotation)):
                continue
            with pytest.raises(InputError, match=f"{name.upper()}={value} ") as error:
                stage.parameters.from_assignments({name.upper(): value})
            assert str(error.value).count("\n") == 0
            tried += 1
    assert tried > 80


@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
@pytest.mark.parametrize("name", ["CPUS", "TPU_DEADLINE", "MEMORY", "THREADS", "GPUS", "TIME"])
def test_no_setting_is_infinite(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name}={value}"):
        read_settings({name: value})


def test_settings_are_taken_out_of_the_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "the host's")
    monkeypatch.setenv("FORCE", "1")
    settings, rest = read_settings({"STORE": "s", "MEMORY": "2g", "SEED": "1", "PATTERN": ""})
    assert (str(settings.store), settings.memory, settings.force) == ("s", 2 << 30, False)
    assert rest == {"SEED": "1"}
    with pytest.raises(InputError, match="ACCEL=npu"):
        read_settings({"ACCEL": "npu"})


@pytest.mark.parametrize(
    "value", ["inf", "-inf", "nan", "infg", "1e400", "1e300", "9" * 30, "9" * 5000, "0", "-1"]
)
@pytest.mark.parametrize("name", ["MEMORY", "CPUS", "THREADS", "GPUS", "NODES", "TPU_DEADLINE"])
def test_a_setting_is_a_number_that_a_machine_can_have(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name}={value[:20]}"):
        read_settings({name: value})


@given(st.sampled_from(["MEMORY", "CPUS", "TIME", "TPU_DEADLINE", "NODES"]), st.text(max_size=9))
@example("TIME", "9" * 5000)
@example("TIME", "99999999-1")
@example("TIME", "٣٠")
@example("MEMORY", "1e308g")
def test_any_text_is_a_setting_or_no_setting(name: str, value: str) -> None:
    try:
        found, _ = read_settings({name: value})
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert (found.memory or 0) < 2**60


@pytest.mark.parametrize("word", ["model=x", "MODEL", "=x", "--force"])
def test_words_that_are_no_assignments(word: str) -> None:
    with pytest.raises(InputError, match="is not understood"):
        split_assignments([word])


@pytest.mark.parametrize(
    ("text", "size"), [("1g", 2**30), ("1.5GiB", 1610612736), ("7", 7), ("64MB", 2**26)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
