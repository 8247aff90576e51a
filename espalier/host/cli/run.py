"""Commands that run stages: prune-<method>, pipeline, eval, fetch, grow, and a saved plan."""

from collections.abc import Callable
from pathlib import Path

import typer

from espalier.contract.discovery import method_named, methods, scorers, stage_named
from espalier.contract.stage import Stage
from espalier.contract.store import name_after
from espalier.errors import InputError
from espalier.host.cli.session import Assignments, Session
from espalier.host.commands.adoption import (
    directory_named,
    forget,
    gather,
    gathered,
    is_to_be_gathered,
    require_adoptable,
)
from espalier.host.commands.evaluation import EVALUATION, evaluate
from espalier.host.commands.pipeline import DEFAULT_METHOD, Pipeline
from espalier.host.commands.pruning import PruningCommand, known_names, score
from espalier.host.commands.sources import (
    GROWN_TEXT,
    checkpoint_asked,
    default_name,
    default_text,
    examples_named,
    first_given,
    grown_token_data,
    model_named,
    text_named,
    token_data_named,
)
from espalier.host.commands.training import TRAINERS, TrainingCommand, row_length
from espalier.host.draft import Draft
from espalier.host.runtimes.slurm import in_job
from espalier.host.runtimes.slurm.job import folder_of
from espalier.host.runtimes.slurm.requeues import require_progress
from espalier.host.saved_plan import read_plan


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for name, stage in methods().items():
        app.command(f"prune-{name}", help=stage.summary)(_prune_command(name))
    for name, stage in scorers().items():
        app.command(name, help=stage.summary)(_score_command(stage))
    commands = (
        *(pipeline, evaluation, prepare, fetch, fetch_data, data, export),
        *(train_gpu, recover, corpus, grow, adopt, run),
    )
    for command in commands:
        name = {"evaluation": "eval"}.get(command.__name__, command.__name__.replace("_", "-"))
        app.command(name)(command)


def _prune_command(method: str) -> Callable[[Assignments], None]:
    def prune(assignments: Assignments = None) -> None:
        _pipeline(method, Session.of(assignments))

    return prune


def _score_command(stage: Stage) -> Callable[[Assignments], None]:
    def scored(assignments: Assignments = None) -> None:
        session = Session.of(assignments)
        session.carry_out(stage.name, lambda draft: score(draft, stage, session.rest))

    return scored


def pipeline(assignments: Assignments = None) -> None:
    """Fetch or grow MODEL, prune it with METHOD, train it (TRAIN, TOKENS), evaluate all (SUITE)."""
    session = Session.of(assignments)
    _pipeline(session.rest.pop("METHOD", DEFAULT_METHOD), session)


def _pipeline(method: str, session: Session) -> None:
    command = Pipeline.parse(method, session.rest)
    session.carry_out("pipeline", lambda draft: command.add(draft, session.paid_tpu))


def evaluation(assignments: Assignments = None) -> None:
    """Evaluate CKPT (a name on the store, a path or a model) with SUITE on DATA."""
    session = Session.of(assignments)
    rest = session.rest
    found = checkpoint_asked(rest)
    method = rest.pop("METHOD", None)
    pruning = _pruning(rest, method) if method else None
    name = rest.pop("NAME", "") if pruning else ""

    def build(draft: Draft) -> Path:
        parent = checkpoint = found(draft)
        if pruning:
            default = default_name(parent, pruning.stage, pruning.parameters)
            if not (name or draft.find(default, ("checkpoints",))):
                raise InputError(
                    f"{default} is not on the store; make it (make prune-{pruning.stage.name}), or "
                    "give its NAME."
                )
            checkpoint = model_named(draft, name or default, given_as="NAME")
        before, after = (evaluate(draft, model, rest) for model in (parent, checkpoint))
        draft.step("eval", [before, after], tables=[(before, after)])
        return after

    session.carry_out("eval", build)


def _pruning(rest: dict[str, str], method: str) -> PruningCommand:
    """METHOD with its assignments, which are taken from `rest`."""
    names = known_names(method_named(method)) - set(EVALUATION)
    return PruningCommand.parse(method, {key: rest.pop(key) for key in list(rest) if key in names})


def prepare(assignments: Assignments = None) -> None:
    """Put on the store all that pruning and evaluating MODEL needs, for a run without network."""
    session = Session.of(assignments)
    rest = session.rest
    named, revision = rest.pop("MODEL", "sapling"), rest.pop("REVISION", "")
    calibration, suite = rest.pop("CALIBRATION", ""), rest.pop("SUITE", "quick")
    text, train = rest.pop("DATA", ""), rest.pop("TRAIN", "")
    _refuse(rest, "MODEL, REVISION, CALIBRATION, SUITE, DATA, TRAIN")

    def build(draft: Draft) -> Path:
        model = model_named(draft, named, revision)
        needed = [model]
        needed.append(text_named(draft, calibration or default_text(draft, model, prune=True)))
        if suite != "none":
            needed.append(text_named(draft, text or default_text(draft, model, prune=False)))
        if train == "recover":
            needed.append(examples_named(draft, None, model))
        elif train and (packed := grown_token_data(draft, model)):
            needed.append(packed)
        draft.step("prepare", needed)
        return model

    session.carry_out("prepare", build)


def fetch(assignments: Assignments = None) -> None:
    """Put MODEL (an alias or a hub id) on the store; `sapling` is grown."""
    session = Session.of(assignments)
    model, revision = session.rest.pop("MODEL", "sapling"), session.rest.pop("REVISION", "")
    _refuse(session.rest, "MODEL, REVISION")
    anew = session.settings.force
    session.carry_out("fetch", lambda draft: model_named(draft, model, revision, anew))


def fetch_data(assignments: Assignments = None) -> None:
    """Put the text DATA (a listed one, pydoc or a hub id) on the store, FILES of it at most."""
    session = Session.of(assignments)
    data, files = session.rest.pop("DATA", GROWN_TEXT), session.rest.pop("FILES", "")
    _refuse(session.rest, "DATA, FILES")
    anew = session.settings.force
    session.carry_out("fetch-data", lambda draft: text_named(draft, data, files, anew))


def data(assignments: Assignments = None) -> None:
    """Tokenise, split and pack the text SOURCE with TOKENIZER's tokenizer, as DATA."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("data")
    source, tokenizer = rest.pop("SOURCE", GROWN_TEXT), rest.pop("TOKENIZER", "sapling")
    given, files = rest.pop("DATA", ""), rest.pop("FILES", "")
    if given == source:
        raise InputError(f"DATA={given} is the text's name already; give the result another.")
    parameters = stage.parameters.from_assignments(rest)

    def build(draft: Draft) -> Path:
        text = text_named(draft, source, files)
        inputs = {"text": text, "tokenizer": model_named(draft, tokenizer, given_as="TOKENIZER")}
        names = (*map(name_after, inputs.values()), parameters.label())
        name = given or "-".join(filter(None, names))
        return draft.make(stage, parameters, inputs, name)

    session.carry_out("data", build)


def export(assignments: Assignments = None) -> None:
    """Write the token data DATA as FORMAT for other trainers; rows as long as CKPT's, or SEQLEN."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("export")
    named, given = rest.pop("DATA", ""), rest.pop("NAME", "")
    trained, given_as = first_given(rest, ("CKPT", "MODEL"), "")
    for variable in ("CKPT", "MODEL"):
        rest.pop(variable, None)

    def build(draft: Draft) -> Path:
        found = token_data_named(draft, named) if named else None
        if found is None:
            raise InputError(
                f"DATA={named} is not on the store; make it with make data DATA=<name>."
            )
        words = dict(rest)
        if trained:
            config = draft.config(model_named(draft, trained, given_as=given_as))
            length = row_length(stage_named(TRAINERS["tpu"]).parameters(), config)
            words.setdefault("SEQLEN", str(length))
        parameters = stage.parameters.from_assignments(words)
        name = given or f"{found.name}-{parameters.label()}"
        return draft.make(stage, parameters, {"data": found}, name)

    session.carry_out("export", build)


def train_gpu(assignments: Assignments = None) -> None:
    """Train CKPT, or ARCH from scratch, on the token data DATA for TOKENS."""
    session = Session.of(assignments)
    command = TrainingCommand.parse(stage_named(TRAINERS["gpu"]), session.rest)
    session.carry_out("train-gpu", command.add)


def recover(assignments: Assignments = None) -> None:
    """Train low-rank adapters of CKPT on DATA, and merge them with every zero kept."""
    session = Session.of(assignments)
    command = TrainingCommand.parse(stage_named(TRAINERS["recover"]), session.rest)
    session.carry_out("recover", command.add)


def corpus(assignments: Assignments = None) -> None:
    """Write CPython's documentation as the text `pydoc`."""
    session = Session.of(assignments)
    name, stage = session.rest.pop("NAME", GROWN_TEXT), stage_named("corpus")
    session.carry_out("corpus", lambda draft: draft.make(stage, session.rest, {}, name))


def grow(assignments: Assignments = None) -> None:
    """Grow `sapling`, the small model that needs no download."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("grow")
    name, source = rest.pop("NAME", "sapling"), rest.pop("DATA", GROWN_TEXT)
    parameters = stage.parameters.from_assignments(rest)

    def build(draft: Draft) -> Path:
        return draft.make(stage, parameters, {"data": text_named(draft, source)}, name)

    session.carry_out("grow", build)


def adopt(assignments: Assignments = None) -> None:
    """Copy FROM=, a Hugging Face directory or a GGUF file, into the store as models/NAME."""
    session = Session.of(assignments)
    source, name = session.rest.pop("FROM", None), session.rest.pop("NAME", None)
    stage = stage_named("adopt")
    parameters = stage.parameters.from_assignments(session.rest)
    if not source or not name:
        raise InputError(
            "give FROM=<Hugging Face directory or GGUF file> and NAME=<name on the store>."
        )
    named, store = directory_named(source), session.executor.store
    require_adoptable(named, stage)
    apart, path = is_to_be_gathered(named), named
    if apart:
        path = gathered(named, store) if session.settings.dry_run else gather(named, store)
    try:
        session.carry_out(
            "adopt", lambda draft: draft.make(stage, parameters, {"source": path}, name)
        )
    finally:
        if apart and not session.executor.fetching:  # what a job reads stays for it
            forget(named, store)


def run(assignments: Assignments = None) -> None:
    """Carry out the saved plan PLAN, or its step STEP with all that it needs."""
    session = Session.of(assignments)
    file, step = session.rest.pop("PLAN", ""), session.rest.pop("STEP", "")
    _refuse(session.rest, "PLAN, STEP")
    if not file:
        raise InputError("give PLAN=<a saved plan>.")
    store = session.executor.store
    plan = read_plan(Path(file).expanduser(), store)
    plan = plan.only(step) if step else plan
    if step and in_job() and not session.settings.dry_run:
        require_progress(plan, store, folder_of(session.settings))
    session.carry_out_plan(plan)


def _refuse(rest: dict[str, str], known: str) -> None:
    if rest:
        raise InputError(f"{', '.join(rest)} is not a parameter here (known: {known}).")
