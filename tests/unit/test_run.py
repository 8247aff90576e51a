"""Which tests run with which image's packages."""

from pathlib import Path

import pytest

from espalier.host.images import known_images
from tests.run import (
    WITHOUT_MODELS,
    images_with_tests,
    mark_of,
    marked,
    narrowed,
    no_other,
)


def test_an_image_whose_mark_a_test_has_has_tests_of_its_own() -> None:
    assert {"export", "fsdp", "maxtext", "minitron"} <= set(images_with_tests())
    assert no_other(("a", "b-c")) == "not a and not b_c"


def test_tests_of_models_run_where_torch_and_transformers_are() -> None:
    assert WITHOUT_MODELS == ("export", "maxtext")


def test_each_image_is_a_marker(pytestconfig: pytest.Config) -> None:
    markers = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert {mark_of(image) for image in known_images()} <= markers


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


def test_an_images_own_tests_are_found_by_its_mark(tmp_path: Path) -> None:
    image = "minitron"  # apart from the mark, or this file itself would have it
    file = tmp_path / "below" / "test_marked.py"
    file.parent.mkdir()
    file.write_text(f"pytestmark = pytest.mark.{image}\n")
    other = tmp_path / "test_other.py"
    other.write_text("")
    assert marked(image, ["-x", str(tmp_path)]) == [str(file)]
    assert marked(image, [f"{file}::test_one", str(other), "-x"]) == [f"{file}::test_one"]
    assert marked(image, ["-k", image, str(other)]) == []
    assert marked(image, ["-n", "2"])  # of all tests
    assert marked("torch", []) == []
