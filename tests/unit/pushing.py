"""A checkpoint by hand that is pushed to the tests' hub, by the stage in this very process."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.errors import EspalierError
from inputs.push import stage
from inputs.push.cargo import CARD
from inputs.push.spec import STAGE
from tests.manifests import mark
from tests.unit.hub_state import Hub

REPO = "me/half"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LOADED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("LICENSE", "model.safetensors.index.json", *SHARDS),
)
OTHER = ("scores.json", "importance.png", "importance.svg", "optimizer.pt", "train.py")
"""What a checkpoint's folder may hold beside what is loaded."""


@dataclass
class Desk:
    """A checkpoint and what is pushed with it, from one folder to one hub."""

    root: Path
    hub: Hub

    @property
    def checkpoint(self) -> Path:
        return self.root / "half"

    @property
    def scratch(self) -> Path:
        return self.root / "out" / ".run" / "scratch"

    def push(self, **given: str) -> dict[str, Any]:
        """Run the stage; what it has recorded."""
        parameters = STAGE.parameters.from_assignments({"REPO": REPO, **given})
        inputs = {"checkpoint": self.checkpoint, "card": self.root / CARD}
        self.scratch.mkdir(parents=True, exist_ok=True)
        output = self.root / "out"
        stage.run(StageContext(inputs, output, self.scratch, "cpu", Progress()), parameters)
        record: dict[str, Any] = json.loads((output / stage.RECORD).read_text())
        return record

    def refuses(self, code: int, *says: str, **given: str) -> str:
        """A push that ends in one sentence, whose exit code is `code`."""
        with pytest.raises(EspalierError) as refused:
            self.push(**given)
        sentence = str(refused.value)
        assert refused.value.exit_code == code, sentence
        assert "\n" not in sentence
        for text in says:
            assert text in sentence
        return sentence

    def wrote(self) -> list[str]:
        """What was asked of the hub that is more than a look."""
        return [asked for asked in self.hub.asked if not asked.startswith("GET")]


def laid_out(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A checkpoint, a card and a token, and the hub's client of this process turned to `hub`."""
    token = tmp_path / "token"
    token.write_text("right\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(token))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    huggingface_hub.close_session()
    desk = Desk(tmp_path, hub)
    desk.checkpoint.mkdir()
    drawn = random.Random(0)
    for name in (*LOADED, *OTHER):
        size = 4000 if name in SHARDS else 40
        (desk.checkpoint / name).write_bytes(drawn.randbytes(size))
    (tmp_path / CARD).write_text("---\ntags:\n- espalier\n---\n\n# half\n")
    command = ["/home/someone/bin/python", "-m", "espalier.run_stage", "/home/someone/store/half"]
    mark(desk.checkpoint, stage="wanda", verb="prune", fingerprint="f" * 64, command=command)
    return desk
