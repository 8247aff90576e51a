"""The fixed command of every stage, run inside its image: `python -m espalier.run_stage DIR`.

DIR is the partial artifact; `.run/run.json` in it says what to do. The stage's code runs, the
gates are checked and the manifest is written last: then DIR is complete and the host names it.
"""

import gc
import importlib
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from espalier.contract.context import context_of
from espalier.contract.discovery import stage_named
from espalier.contract.environment import describe_environment
from espalier.contract.files import remove_temporary
from espalier.contract.image import require_built_from
from espalier.contract.imports import uncollected
from espalier.contract.ledger import Entry
from espalier.contract.lineage import account_of, readings_of
from espalier.contract.machine import failure_of_the_machine
from espalier.contract.made import Made
from espalier.contract.manifest import (
    LOGITS,
    MANIFEST,
    METRICS,
    RUN_FOLDER,
    Manifest,
    RunSpec,
    content_digest,
    record_files,
    write_manifest,
)
from espalier.contract.measure import peak_memory
from espalier.contract.ownership import require_own
from espalier.contract.processes import Processes, end_with_parent
from espalier.contract.progress import Progress
from espalier.contract.saved import AGAIN, saved_in, with_place
from espalier.contract.signals import STOPS, ignore_stops
from espalier.contract.stage import Outcome, Stage, StageContext
from espalier.contract.threads import settle
from espalier.contract.usable import require_usable
from espalier.contract.worker import sole_worker
from espalier.errors import DIVERGED, EspalierError, InputError, Interrupted
from espalier.models.cost import entries
from espalier.models.given import check_models, notes_of, tokens_without_row
from espalier.models.shapes import Shapes, read_config

WEIGHTS = ("model", "maxtext", "composer")
"""Roles of inputs whose account goes on in what is made of them."""


def main() -> None:
    """Run the stage of the directory named on the command line and exit with its code."""
    for number in STOPS:
        signal.signal(number, _interrupt)
    settle()
    output = Path(sys.argv[1])
    try:
        _run_or_fail(output)
    except Interrupted as error:  # in the last moment of a stage, or as it was about to fail
        fail(error, output)


def _run_or_fail(output: Path) -> None:
    try:
        run(output)
    except EspalierError as error:
        fail(error, output)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if (failure := failure_of_the_machine(error)) is None:
            raise
        fail(failure, output)
    finally:
        ignore_stops()  # there is nothing left to interrupt
        gc.freeze()  # looking through all that torch holds once more would take a second


def fail(error: EspalierError, output: Path) -> None:
    """Say one sentence, and where the same command continues; exit with the error's code.

    After a bug, whose code is any other, it is the host that says the second.
    """
    if error.exit_code == EspalierError.exit_code:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        raise SystemExit(error.exit_code)
    goes_on = error.exit_code not in (InputError.exit_code, DIVERGED)
    sentence = with_place(str(error), saved_in(output)) if goes_on else str(error)
    print(f"espalier: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(error.exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    ignore_stops()  # once is enough: let the clean-up finish
    raise Interrupted(f"interrupted; {AGAIN}.")


def run(output: Path) -> None:
    """Run the stage described in `output` until `output` is complete, manifest included.

    Where another image has to check the result, the first call ends with the result made, and a
    second one, in that image, ends with the manifest.

    Raises:
        EnvironmentFailure: another user may have written there.
    """
    require_own(output)
    folder = output / RUN_FOLDER
    spec = RunSpec.model_validate_json((folder / "run.json").read_bytes())
    stage = stage_named(spec.stage)
    made = Made.read(folder)
    if made is None:
        require_built_from(spec.image)
    if Processes.from_environment().node > 0:
        return _join(stage, spec, output)
    if spec.runtime in ("local", "inside"):
        end_with_parent(signal.SIGTERM)
    with sole_worker(folder):
        if (output / MANIFEST).is_file():  # by an earlier start's process, which was waited for
            return
        made = made or Made.read(folder)
        context = context_of(spec, output, Progress(output / METRICS))
        if made is None:
            made = _make(stage, spec, context)
            if stage.checked_in:
                made.write(folder)
                return
        _complete(stage, spec, context, made)


def _make(stage: Stage, spec: RunSpec, context: StageContext) -> Made:
    """Let the stage's code run to its end."""
    began, clock = datetime.now(UTC), time.monotonic()
    require_usable(stage, context.inputs)
    context.scratch.mkdir(exist_ok=True)
    parameters = stage.parameters.model_validate(spec.parameters)
    checks, notes = check_models(stage, context.inputs)
    outcome: Outcome = _imported(stage.entry)(context, parameters)
    return Made.of(
        replace(outcome, checks=checks | outcome.checks, notes=notes | outcome.notes),
        environment=describe_environment(spec.runtime, spec.device, spec.image.name),
        started=began.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
        peak_memory_bytes=peak_memory(),
    )


def _complete(stage: Stage, spec: RunSpec, context: StageContext, made: Made) -> None:
    """Check what was made; the manifest, written last, says that it is complete."""
    outcome, output = made.as_outcome(), context.output
    parameters = stage.parameters.model_validate(spec.parameters)
    notes = outcome.notes
    if stage.section == "models":
        from espalier.models.content import correct_dtype

        notes = notes | ({"dtype": note} if (note := correct_dtype(output)) else {})
    model, checks = _gate(stage, context, outcome)
    if unread := tokens_without_row([*context.inputs.values(), output]):
        context.progress.say(
            f"the embedding has no row for {', '.join(unread)}; no text may hold it"
        )
        notes = notes | {"tokens_without_row": unread}
    remove_temporary(output)
    files = record_files(output)
    manifest = Manifest(
        stage=stage.name,
        verb=stage.verb,
        name=spec.name,
        parameters=parameters.model_dump(),
        seed=getattr(parameters, "seed", None),
        inputs=spec.input_records,
        parents=[record.name for record in spec.input_records.values()],
        image=spec.image,
        code=spec.code,
        command=spec.command,
        fingerprint=spec.recipe.fingerprint,
        recipe=spec.recipe,
        content=content_digest(files),
        files=files,
        model=model,
        pruning=outcome.pruning,
        training=outcome.training,
        ledger=_ledger(stage, spec, context, model, outcome),
        data=outcome.data,
        checks={**outcome.checks, **checks},
        notes={**notes_of(context.inputs), **notes},
        environment=made.environment,
        timing={"started": made.started, "seconds": made.seconds},
        peak_memory_bytes=made.peak_memory_bytes,
    )
    write_manifest(output, manifest)


def _imported(place: str) -> Any:
    module, _, function = place.partition(":")
    with uncollected():
        return getattr(importlib.import_module(module), function)


def _join(stage: Stage, spec: RunSpec, output: Path) -> None:
    """Take part in a run that the first machine gates and publishes."""
    if stage.join is None:
        raise InputError(f"{stage.name} runs on one machine; leave NODES out.")
    parameters = stage.parameters.model_validate(spec.parameters)
    _imported(stage.join)(context_of(spec, output, Progress(output / METRICS)), parameters)


def _ledger(
    stage: Stage,
    spec: RunSpec,
    context: StageContext,
    model: dict[str, Any] | None,
    outcome: Outcome,
) -> list[Entry]:
    """What the model has cost so far: its parent's account, and this stage's line."""
    fresh = (outcome.training or {}).get("init") == "random"
    source = next((context.inputs[role] for role in WEIGHTS if role in context.inputs), None)
    before = [] if fresh else account_of(source)
    if stage.verb == "convert":
        return before
    if model is None:
        return []
    read = readings_of(context.inputs.values())
    shapes = _shapes(context.inputs.get("model") or context.output)
    return [*before, *entries(spec.stage, spec.name, shapes, outcome, read)]


def _shapes(directory: Path) -> Shapes | None:
    """A model's; None: of a form whose layers are not known."""
    try:
        return Shapes.of(read_config(directory))
    except InputError:
        return None


def _gate(
    stage: Stage, context: StageContext, outcome: Outcome
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The model's description and the checks passed, for artifacts that are models."""
    model, checks = None, {}
    makes_model = stage.section in ("models", "checkpoints")
    if makes_model:
        from espalier.models.checkpoint.census import Census
        from espalier.models.gates import check_checkpoint, describe_model

        pruning, parent = outcome.pruning, context.inputs.get("model")
        census = Census(context.output)
        checks = check_checkpoint(context.output, pruning=pruning, census=census)
        model = describe_model(context.output, parent, pruning, census=census)
    if (logits := context.scratch / LOGITS).is_file():
        from espalier.models.logits import check_logits

        stock = context.output if makes_model else context.inputs["model"]
        checks |= check_logits(stock, logits)
    return model, checks


if __name__ == "__main__":
    main()
