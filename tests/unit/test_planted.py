"""The search for planted secrets finds each of them, however it was written down."""

import base64
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.planted import AT_ONCE, WORDS, address, find_planted, plant, planted_in


@pytest.mark.parametrize("place", WORDS)
def test_every_word_is_found_in_every_form(tmp_path: Path, place: str) -> None:
    word = WORDS[place]
    assert any(word in value for value in (*plant().values(), address()))
    forms = [word, quote(f"a:{word}@b"), f'{{"a": "{word}"}}', f"x{word}y"]
    forms += [base64.b64encode(f"{'u' * n}:{word}".encode()).decode() for n in range(6)]
    for form in forms:
        assert planted_in(form) == planted_in(form.encode()) == [place]


def test_files_names_and_links_are_searched(tmp_path: Path) -> None:
    word = WORDS["token of the hub"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "clean").write_text("nothing")
    across = tmp_path / "deep" / "large"
    across.write_bytes(b"x" * (AT_ONCE - 5) + word.encode())
    named = tmp_path / f"run-{word}.log"
    named.touch()
    link = tmp_path / "link"
    link.symlink_to(f"/nowhere/{word}")
    assert find_planted(tmp_path) == sorted([across, named, link])
