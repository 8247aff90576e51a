"""Commands that run stages: prune-<method>, pipeline, eval, fetch, grow."""

from collections.abc import Callable
from pathlib import Path

import typer

from espalier.contract.discovery import method_named, methods, scorers, stage_named
from espalier.contract.stage import Stage
from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.chain import GROWN_TEXT, default_name
from espalier.host.cli.plan import plan_first
from espalier.host.cli.session import Assignments, Session, console, report
from espalier.host.cli.steps import DEFAULT_METHOD, EVALUATION, names_before_training
from espalier.host.commands.pruning import TASK_DATA, PruningCommand, known_names, score
from espalier.host.commands.training import (
    TRAINERS,
    TrainingCommand,
    grown_token_data,
    row_length,
    token_data_named,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for name, stage in methods().items():
        app.command(f"prune-{name}", help=stage.summary)(_prune_command(name))
    for name, stage in scorers().items():
        app.command(name, help=stage.summary)(_score_command(stage))
    commands = (
        *(pipeline, evaluate, prepare, fetch, fetch_data, data, export),
        *(train_gpu, corpus, grow, adopt),
    )
    for command in commands:
        name = {"evaluate": "eval"}.get(command.__name__, command.__name__.replace("_", "-"))
        app.command(name)(command)


def _prune_command(method: str) -> Callable[[Assignments], None]:
    def prune(assignments: Assignments = None) -> None:
        _pipeline(method, Session.of(assignments))

    return prune


def _score_command(stage: Stage) -> Callable[[Assignments], None]:
    def scored(assignments: Assignments = None) -> None:
        session = Session.of(assignments)
        session.finish(score(session.chain, stage, session.rest))

    return scored


def pipeline(assignments: Assignments = None) -> None:
    """Fetch or grow MODEL, prune it with METHOD, train it (TRAIN, TOKENS), evaluate all (SUITE)."""
    session = Session.of(assignments)
    method = session.rest.pop("METHOD", DEFAULT_METHOD)
    method_named(method)
    _pipeline(method, session)


def _pipeline(method: str, session: Session) -> None:
    chain, rest = session.chain, dict(session.rest)
    training = TrainingCommand.of_pipeline(rest, names_before_training(method))
    evaluation = {key: rest.pop(key) for key in EVALUATION if key in rest}
    asked = "SUITE" in evaluation
    # The rows that the result is evaluated on are also those that layers are scored by.
    rows = {key: value for key, value in evaluation.items() if key == TASK_DATA}
    command = PruningCommand.parse(method, rest | rows)
    evaluated = evaluation.get("SUITE") != "none"
    if evaluated and "DATA" in evaluation:
        chain.text(evaluation["DATA"])  # a text that is not to be had is best known before pruning
    parent, pruned = command.run(chain, console.print)
    results = [pruned]
    if training:
        plan_first(session, training, pruned)
        results.append(training.continued(chain, pruned, parent))
    if not evaluated:
        session.finish(results[-1])
        return
    try:
        before, *after = [chain.evaluate(model, evaluation) for model in (parent, *results)]
    except EspalierError as error:
        # The checkpoint is there; its text may not be, where there is no network.
        if asked or error.exit_code != EnvironmentFailure.exit_code:
            raise
        name = results[-1].name
        console.print(f"Not evaluated. {error} Try make eval CKPT={name} DATA=<a text>.")
    else:
        for result in () if session.settings.dry_run else after:
            report(stage_named("eval"), before, result)
    session.finish(results[-1])


def evaluate(assignments: Assignments = None) -> None:
    """Evaluate CKPT (a name on the store, a path or a model) with SUITE on DATA."""
    session = Session.of(assignments)
    chain, rest = session.chain, session.rest
    parent = chain.model(
        rest.pop("CKPT", "") or rest.pop("MODEL", "sapling"), rest.pop("REVISION", "")
    )
    checkpoint = parent
    if method := rest.pop("METHOD", None):
        default = _pruned_name(rest, method, parent)
        checkpoint = chain.model(rest.pop("NAME", "") or default)
    before = after = chain.evaluate(parent, rest)
    if checkpoint != parent:
        after = chain.evaluate(checkpoint, rest)
    if not session.settings.dry_run:
        report(stage_named("eval"), before, after)
    session.finish(after)


def prepare(assignments: Assignments = None) -> None:
    """Put on the store all that pruning and evaluating MODEL needs, for a run without network."""
    session = Session.of(assignments)
    chain, rest = session.chain, session.rest
    model = chain.model(rest.pop("MODEL", "sapling"), rest.pop("REVISION", ""))
    chain.text(rest.pop("CALIBRATION", "") or chain.default_text(model, prune=True))
    if rest.pop("SUITE", "quick") != "none":
        chain.text(rest.pop("DATA", "") or chain.default_text(model, prune=False))
    if rest.pop("TRAIN", ""):
        grown_token_data(chain, model)
    _refuse(rest, "MODEL, REVISION, CALIBRATION, SUITE, DATA, TRAIN")
    session.finish(model)


def _pruned_name(rest: dict[str, str], method: str, parent: Path) -> str:
    """The default name of METHOD's result; takes the method's assignments from `rest`."""
    names = known_names(method_named(method)) - set(EVALUATION)
    given = {key: rest.pop(key) for key in list(rest) if key in names}
    command = PruningCommand.parse(method, given)
    return default_name(parent, command.stage, command.parameters)


def fetch(assignments: Assignments = None) -> None:
    """Put MODEL (an alias or a hub id) on the store; `sapling` is grown."""
    session = Session.of(assignments)
    model, revision = session.rest.pop("MODEL", "sapling"), session.rest.pop("REVISION", "")
    _refuse(session.rest, "MODEL, REVISION")
    session.finish(session.chain.model(model, revision))


def fetch_data(assignments: Assignments = None) -> None:
    """Put the text DATA (a listed one, pydoc or a hub id) on the store, FILES of it at most."""
    session = Session.of(assignments)
    data, files = session.rest.pop("DATA", GROWN_TEXT), session.rest.pop("FILES", "")
    _refuse(session.rest, "DATA, FILES")
    session.finish(session.chain.text(data, files))


def data(assignments: Assignments = None) -> None:
    """Tokenise, split and pack the text SOURCE with TOKENIZER's tokenizer, as DATA."""
    session = Session.of(assignments)
    chain, rest = session.chain, session.rest
    source, tokenizer = rest.pop("SOURCE", GROWN_TEXT), rest.pop("TOKENIZER", "sapling")
    name, files = rest.pop("DATA", ""), rest.pop("FILES", "")
    if name == source:
        raise InputError(f"DATA={name} is the text's name already; give the result another.")
    stage = stage_named("data")
    parameters = stage.parameters.from_assignments(rest)
    inputs = {"text": chain.text(source, files), "tokenizer": chain.model(tokenizer)}
    name = name or "-".join(path.resolve().name for path in inputs.values())
    session.finish(chain.run(stage, parameters, inputs, name))


def export(assignments: Assignments = None) -> None:
    """Write the token data DATA as FORMAT for other trainers; rows as long as CKPT's, or SEQLEN."""
    session = Session.of(assignments)
    chain, rest = session.chain, session.rest
    name, given = rest.pop("DATA", ""), rest.pop("NAME", "")
    found = token_data_named(chain, name) if name else None
    if found is None:
        raise InputError(f"DATA={name} is not on the store; make it with make data DATA=<name>.")
    model = rest.pop("MODEL", "")
    if trained := rest.pop("CKPT", "") or model:
        config = chain.config(chain.model(trained))
        rest.setdefault(
            "SEQLEN", str(row_length(stage_named(TRAINERS["tpu"]).parameters(), config))
        )
    stage = stage_named("export")
    parameters = stage.parameters.from_assignments(rest)
    target = given or f"{found.name}-{parameters.label()}"
    session.finish(chain.run(stage, parameters, {"data": found}, target))


def train_gpu(assignments: Assignments = None) -> None:
    """Train CKPT, or ARCH from scratch, on the token data DATA for TOKENS."""
    session = Session.of(assignments)
    command = TrainingCommand.parse(stage_named(TRAINERS["gpu"]), session.rest)
    session.finish(command.run(session.chain))


def corpus(assignments: Assignments = None) -> None:
    """Write CPython's documentation as the text `pydoc`."""
    session = Session.of(assignments)
    name = session.rest.pop("NAME", GROWN_TEXT)
    session.finish(session.chain.make(stage_named("corpus"), session.rest, {}, name))


def grow(assignments: Assignments = None) -> None:
    """Grow `sapling`, the small model that needs no download."""
    session = Session.of(assignments)
    name = session.rest.pop("NAME", "sapling")
    text = session.chain.text(session.rest.pop("DATA", GROWN_TEXT))
    session.finish(session.chain.make(stage_named("grow"), session.rest, {"data": text}, name))


def adopt(assignments: Assignments = None) -> None:
    """Copy a Hugging Face directory FROM= into the store as models/NAME, through the gates."""
    session = Session.of(assignments)
    source, name = session.rest.pop("FROM", None), session.rest.pop("NAME", None)
    _refuse(session.rest, "FROM, NAME")
    if not source or not name:
        raise InputError("give FROM=<Hugging Face directory> and NAME=<name on the store>.")
    path = Path(source).expanduser()
    if not (path / "config.json").is_file():
        raise InputError(f"FROM={source} holds no config.json; give a Hugging Face directory.")
    session.finish(session.chain.make(stage_named("adopt"), {}, {"source": path}, name))


def _refuse(rest: dict[str, str], known: str) -> None:
    if rest:
        raise InputError(f"{', '.join(rest)} is not a parameter here (known: {known}).")
