"""Push a checkpoint: look at what the hub has, commit what it lacks, and record what is there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.manifest import check_files, read_manifest
from espalier.contract.measure import show_size
from espalier.contract.parameters import Parameters
from espalier.contract.saved import note, noted
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import EnvironmentFailure, InputError, without_secrets
from inputs.fetch.cache import keep_cache_in
from inputs.push.cargo import Cargo
from inputs.push.spec import MAIN, PushParameters

if TYPE_CHECKING:
    from inputs.push.repository import Branch, Head

RECORD = "push.json"


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Push the input `checkpoint` with its `card`; the output says what the hub has of it then.

    Raises:
        InputError: there is no token, or the hub refuses it; the files are not what was published;
            or the repository is public, or has files that would be read with these.
        EnvironmentFailure: the hub does not answer, or was changed meanwhile.
    """
    assert isinstance(parameters, PushParameters)  # noqa: S101
    _prepare_client(context.scratch)
    from huggingface_hub import HfApi

    from inputs.fetch.hub import token
    from inputs.push.refusals import said_plainly
    from inputs.push.repository import Branch

    if not (given := token()):
        raise InputError(
            "there is no token of the hub; set HF_TOKEN to one that may write to "
            f"{parameters.repo}, or log in with hf auth login."
        )
    branch = Branch(HfApi(token=given), parameters.repo, parameters.revision)
    cargo = Cargo.of(context.inputs["checkpoint"], context.inputs["card"].read_bytes())
    with said_plainly(parameters.repo):
        head = _pushed(branch, cargo, parameters.private, context)
    record = _record(branch, head, cargo)
    write_text(context.output / RECORD, to_json(record, indent=1) + "\n")
    return Outcome(notes={name: record[name] for name in ("repo", "branch", "commit")})


def _prepare_client(scratch: Path) -> None:
    """Have the hub's client keep to `scratch`, and send files by the one route that tests know.

    That is plain HTTP by the files' sha256, of which the hub asks for nothing that it has. The
    client reads this when it is imported. Its own warnings show addresses that anybody may write
    to for a while.
    """
    keep_cache_in(scratch)
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def _pushed(branch: "Branch", cargo: Cargo, private: bool, context: StageContext) -> "Head":
    """What the branch holds once all of it is there; nothing is hashed or made for what is."""
    from inputs.push.consequences import place_of, require_fitting

    head = branch.head()
    if there := head or branch.head(MAIN):
        require_fitting(branch.repo, there, cargo, private)
    if head is None or head.lacks(cargo):
        check_files(context.inputs["checkpoint"])
        head = head or branch.begin(private)
        require_fitting(branch.repo, head, cargo, private)
    if head.lacks(cargo):
        return _sent(branch, cargo, head, context)
    context.progress.say(f"{place_of(branch, head)} has all of it already.")
    return head


def _sent(branch: "Branch", cargo: Cargo, before: "Head", context: StageContext) -> "Head":
    """What the branch holds once what it lacks is committed."""
    from inputs.push.consequences import place_of, say_what_becomes
    from inputs.push.repository import Shipment

    say, total = context.progress.say, len(cargo.parts)
    say_what_becomes(branch, before, cargo, say)
    if begun := noted(context.scratch):
        say(f"resumes from {begun}; what was sent before it is on the hub.")
    shipment = Shipment(branch, cargo)
    with context.progress.steps("push", total=total) as steps:
        for number, name in enumerate(shipment.send(), 1):
            following = f"file {number + 1} of {total}" if number < total else "the commit"
            note(context.scratch, following)
            steps.advance(file=name)
    manifest = read_manifest(context.inputs["checkpoint"])
    message = f"{manifest.name}, fingerprint {manifest.fingerprint[:12]}"
    after = branch.head(shipment.commit(before, message))
    if after is None or after.lacks(cargo):
        raise EnvironmentFailure(
            f"{branch.repo} has taken the commit and does not show all of it; give the same "
            "command again, which looks once more."
        )
    say(f"{place_of(branch, after)} has all of it: {total} files, {show_size(cargo.size)}.")
    return after


def _record(branch: "Branch", head: "Head", cargo: Cargo) -> dict[str, Any]:
    """What is known of the push later: where it is, since when, and which bytes."""
    return {
        "hub": without_secrets(branch.api.endpoint),
        "repo": branch.repo,
        "branch": branch.name,
        "commit": head.commit,
        "since": head.since.isoformat() if head.since else None,
        "private": head.private,
        "files": [part.record.model_dump() for part in cargo.parts],
        "left_on_the_store": list(cargo.left),
        "taken_out_of_the_manifest": list(cargo.taken),
    }
