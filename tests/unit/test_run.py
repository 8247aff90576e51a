"""Which tests run with which image's packages."""

from pathlib import Path

import pytest

from tests.run import exit_code, images_with_tests, mentions, narrowed, no_other


def test_an_image_whose_name_is_a_marker_has_tests_of_its_own() -> None:
    assert images_with_tests() == ("minitron",)
    assert no_other(("a", "b")) == "not a and not b"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["-m", "(not a)"]),
        (["tests/x.py::t[1-2]", "-x"], ["tests/x.py::t[1-2]", "-x", "-m", "(not a)"]),
        (["-m", "b or c", "-k", "d"], ["-k", "d", "-m", "(b or c) and (not a)"]),
    ],
)
def test_given_markers_are_narrowed(words: list[str], expected: list[str]) -> None:
    assert narrowed(words, "not a") == expected


def test_the_named_files_say_whether_an_image_has_tests_there(tmp_path: Path) -> None:
    image = "minitron"  # apart from the mark, or this file itself would have it
    marked = tmp_path / "below" / "test_marked.py"
    marked.parent.mkdir()
    marked.write_text(f"pytestmark = pytest.mark.{image}\n")
    (tmp_path / "test_other.py").write_text("")
    assert mentions(image, ["-x", str(tmp_path)])
    assert mentions(image, [f"{marked}::test_one", "-x"])
    assert not mentions(image, ["-k", image, str(tmp_path / "test_other.py")])
    assert not mentions("wanda", ["-n", "2"])


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 5], 0), ([5, 5], 5), ([5, 1], 1), ([0, 2], 2), ([0], 0)]
)
def test_one_run_may_find_no_test(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected
