"""docker-compose.yml and the Makefile offer the same stages with the same variables."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from espalier.contract.discovery import methods, stage_named
from espalier.contract.paths import ROOT
from espalier.host.commands.evaluation import EVALUATION
from espalier.host.commands.pruning import known_names, roles_of
from tests.contract.command import espalier
from tests.tiny import tiny_llama

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
TPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.tpu.yml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def variables(service: dict[str, Any]) -> set[str]:
    """Upper-case names that a service's command sets; each is taken from compose's own variable."""
    words = service["command"][4:]
    for word in words:
        name, _, value = word.partition("=")
        fixed = name in ("METHOD", "SUITE") and not value.startswith("$")
        assert fixed or re.fullmatch(rf"\$\{{(TRAIN_)?{name}:-[a-z0-9-]*\}}", value), word
    return {word.partition("=")[0] for word in words}


@pytest.mark.parametrize("method", methods())
def test_each_method_is_a_profile_that_prunes_and_then_evaluates(method: str) -> None:
    stage, prune, evaluation = methods()[method], SERVICES[method], SERVICES[f"eval-{method}"]
    assert prune["image"] == f"espalier/{stage.image}:${{ACCEL:-cpu}}"
    assert prune["command"][:4] == ["python", "-m", "espalier", f"prune-{method}"]
    parameters, roles = known_names(stage), roles_of(stage)
    sources = {"calibration": "CALIBRATION", "tasks": "TASK_DATA"}
    given = {variable for role, variable in sources.items() if role in roles}
    given |= {"SCORES"} if stage.derived else set()
    assert variables(prune) == parameters | given | {"MODEL", "NAME", "SUITE"}
    assert "SUITE=none" in prune["command"]

    assert evaluation["image"] == f"espalier/{stage_named('eval').image}:${{ACCEL:-cpu}}"
    assert evaluation["command"][3:5] == ["eval", f"METHOD={method}"]
    needed = parameters | {"METHOD", "MODEL", "NAME", "SUITE", "DATA"}
    assert variables(evaluation) == needed - (set(EVALUATION) - {"SUITE", "DATA"})

    chain = {f"eval-{method}": method, method: "prepare"}
    for later, earlier in chain.items():
        assert SERVICES[later]["depends_on"] == {
            earlier: {"condition": "service_completed_successfully"}
        }
    for name in (method, f"eval-{method}", "prepare"):
        assert method in SERVICES[name]["profiles"]


def test_the_evaluation_takes_the_pruning_s_words_with_any_name(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "tiny")
    words = ("METHOD=magnitude", f"MODEL={model}", "PATTERN=2:4", "SPARSITY=0.5", f"NAME={model}")
    shown = espalier(tmp_path / "store", "eval", *words, "SUITE=perplexity", "DRY_RUN=1")
    assert shown.returncode == 0, shown.stderr


def test_training_follows_whichever_method_runs() -> None:
    service, stage = SERVICES["train-gpu"], stage_named("train-gpu")
    assert service["image"] == f"espalier/{stage.image}:${{ACCEL:-cpu}}"
    assert service["depends_on"].keys() == {"prepare", *methods()}
    assert all(not service["depends_on"][name]["required"] for name in methods())
    words = [word.partition("=")[0] for word in service["command"][4:]]
    sources = {"MODEL", "CKPT", "DATA", "TEACHER", "NAME", "GPUS"}
    assert set(words) == {name.upper() for name in stage.parameters.model_fields} | sources
    assert "CKPT=${NAME:-}" in service["command"]
    evaluation = SERVICES["eval-train"]
    assert "CKPT=${TRAIN_NAME:-trained}" in evaluation["command"]
    assert "NAME=${TRAIN_NAME:-trained}" in service["command"]


def test_training_by_maxtext_is_four_services_in_a_row() -> None:
    stage, name = stage_named("train-tpu"), "${TRAIN_NAME:-trained}"
    images = {
        "export-train-tpu": f"espalier/{stage_named('export').image}:cpu",
        "train-tpu": f"espalier/{stage.image}:cpu",
        "publish-train-tpu": f"espalier/{stage.checked_in}:cpu",
        "eval-train-tpu": "espalier/eval:${ACCEL:-cpu}",
    }
    assert {service: SERVICES[service]["image"] for service in images} == images
    for earlier, later in pairwise(images):
        done = {earlier: {"condition": "service_completed_successfully"}}
        assert SERVICES[later]["depends_on"] == done
    first, second, third, last = (SERVICES[service] for service in images)
    assert first["depends_on"] == SERVICES["train-gpu"]["depends_on"]
    assert {"FORMAT=arrayrecord", "TARGETS=1", f"NAME={name}-rows"} <= set(first["command"])
    assert {"CKPT=${NAME:-}", f"DATA={name}-rows", f"NAME={name}"} <= set(second["command"])
    words = {word.partition("=")[0] for word in second["command"][4:]}
    parameters = {field.upper() for field in stage.parameters.model_fields}
    assert words == parameters | {"MODEL", "CKPT", "DATA", "NAME"}
    assert third["command"][3:] == ["publish", f"NAME={name}"]
    assert f"CKPT={name}" in last["command"]
    assert all(SERVICES[service]["profiles"] == ["train-tpu"] for service in images)
    on_tpu = TPU["services"]["train-tpu"]
    assert TPU["services"].keys() == {"train-tpu"}
    assert on_tpu["image"] == f"espalier/{stage.image}:tpu"
    assert on_tpu["privileged"]


def test_no_service_is_without_a_method() -> None:
    training = {"train-gpu", "eval-train", "eval-train-tpu"}
    expected = {"prepare", *methods(), *(f"eval-{name}" for name in methods()), *training}
    by_maxtext = {"export-train-tpu", "train-tpu", "publish-train-tpu"}
    assert set(SERVICES) == expected | by_maxtext
    assert set(GPU["services"]) == expected


def test_only_prepare_has_the_network_and_the_token() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert (service["network_mode"] == "none") is (name != "prepare")
        assert ("secrets" in service) is (name == "prepare")


def test_the_makefile_has_a_target_for_each_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE))
    named = {name for line in targets for name in line.split()}
    commands = {service["command"][3] for service in SERVICES.values()}
    assert {name for name in commands if not name.startswith("prune-")} <= named
    assert "$(addprefix prune-,$(METHODS))" in makefile
