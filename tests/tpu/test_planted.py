"""Neither the bucket, nor the request, nor what a VM starts with holds the launcher's secrets."""

from pathlib import Path

import pytest

from tests.planted import find_planted, plant, planted_in
from tests.tpu.asking import make_text, settings
from tests.tpu.fake_server import FakeServer, Slice


@pytest.mark.usefixtures("lock", "hosts")
def test_what_a_tpu_is_told(
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    reached = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    for name, value in {**plant(), **reached}.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []
    at_the_end = server.deleted

    def ended(each: Slice) -> None:
        told.append(str(each.resource))
        at_the_end(each)

    server.deleted = ended
    published = make_text(settings(tmp_path))
    assert (published / "manifest.json").is_file()
    assert any("startup-script" in text for text in told)
    assert [place for text in told for place in planted_in(text)] == []
    assert planted_in("".join(capfd.readouterr())) == []
    assert find_planted(tmp_path) == []
