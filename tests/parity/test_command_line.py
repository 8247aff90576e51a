"""The same by the command line: the reference's masks and perplexities, as a user gets them."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.contract.command import espalier

pytestmark = pytest.mark.shared


@pytest.mark.parametrize(
    ("method", "words", "job"),
    [
        ("magnitude", (), "magnitude-0.5"),
        ("wanda", ("PATTERN=4:8",), "wanda-4of8"),
        ("wanda", ("VARIANT=1",), "wanda-variant-0.5"),
    ],
)
def test_masks_and_perplexity(
    tmp_path: Path, shared: Path, method: str, words: tuple[str, ...], job: str
) -> None:
    reference = shared / "reference" / "stories260k"
    given = [f"MODEL={shared / 'models' / 'stories260k'}", *words]
    if method != "magnitude":
        given.append(f"CALIBRATION={reference / 'calibration.safetensors'}")
    windows = [f"DATA={reference / 'valid.safetensors'}", "SUITE=perplexity"]
    done = espalier(tmp_path, f"prune-{method}", *given, *windows)
    assert done.returncode == 0, done.stderr
    checkpoint = Path(done.stdout.strip())
    weights = {}
    for file in checkpoint.glob("*.safetensors"):
        weights |= load_file(file)
    masks = load_file(reference / "kept_masks.safetensors")
    for name, kept in masks.items():
        if name.startswith(f"{job}/"):
            assert ((weights[name.partition("/")[2]] != 0) == kept).all(), name
    expected = json.loads((reference / "results.json").read_text())
    for evaluated, key in (("stories260k", "dense"), (checkpoint.name, job)):
        path = tmp_path / "evals" / evaluated / "perplexity" / "results.json"
        found = json.loads(path.read_text())["results"]["perplexity/valid"]["ppl,none"]
        assert found == pytest.approx(expected[key]["ppl"], rel=0.005)
