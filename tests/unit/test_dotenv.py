"""`.env` is read by the rules of docker compose."""

import os
from pathlib import Path

import pytest

from espalier.errors import InputError
from espalier.host.settings import load_dotenv


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("STORE=/data/espalier", "/data/espalier"),
        ("export STORE=/data", "/data"),
        ("STORE = /data", "/data"),
        ("STORE='/a  b'", "/a  b"),
        ('STORE="/a b"  # where', "/a b"),
        ("STORE=/a b # where", "/a b"),
        ("STORE=/a#b", "/a#b"),
        ("STORE='$PLACE/x'", "$PLACE/x"),
        ("STORE=${PLACE}/x", "/given/x"),
        ("STORE=${NOWHERE:-/default}/x", "/default/x"),
        ("STORE=", ""),
        ("\ufeffSTORE=/data", "/data"),
        ("# STORE=/other\n\nSTORE=/data", "/data"),
    ],
)
def test_lines_are_read_as_compose_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, value: str
) -> None:
    monkeypatch.setattr(os, "environ", {"PLACE": "/given"})
    (tmp_path / ".env").write_text(line, encoding="utf-8")
    load_dotenv(tmp_path / ".env")
    assert os.environ["STORE"] == value


def test_the_callers_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "/mine")
    (tmp_path / ".env").write_text("STORE=/data")
    load_dotenv(tmp_path / ".env")
    assert os.environ["STORE"] == "/mine"


def test_what_is_no_assignment_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STORE=/data\nRUNTIME='docker\n")
    with pytest.raises(InputError, match=r"line 2 of .*\.env is not understood"):
        load_dotenv(tmp_path / ".env")
