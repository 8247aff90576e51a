import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.measure import parse_size
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


def test_settings_are_taken_out_of_the_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "the host's")
    monkeypatch.setenv("FORCE", "1")
    settings, rest = read_settings({"STORE": "s", "MEMORY": "2g", "SEED": "1", "PATTERN": ""})
    assert (str(settings.store), settings.memory, settings.force) == ("s", 2 << 30, False)
    assert rest == {"SEED": "1"}
    with pytest.raises(InputError, match="ACCEL=npu"):
        read_settings({"ACCEL": "npu"})


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "infg", "1e400", "0", "-1"])
@pytest.mark.parametrize("name", ["MEMORY", "CPUS", "THREADS", "GPUS", "NODES", "TPU_DEADLINE"])
def test_a_setting_is_a_number_that_a_machine_can_have(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name}={value}"):
        read_settings({name: value})


@pytest.mark.parametrize("word", ["model=x", "MODEL", "=x", "--force"])
def test_words_that_are_no_assignments(word: str) -> None:
    with pytest.raises(InputError, match="is not understood"):
        split_assignments([word])


@pytest.mark.parametrize(
    ("text", "size"), [("1g", 2**30), ("1.5GiB", 1610612736), ("7", 7), ("64MB", 2**26)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
