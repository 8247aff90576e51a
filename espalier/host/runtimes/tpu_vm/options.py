"""What is asked for: which TPU where, on whose account, and what it runs."""

import re
from dataclasses import dataclass

from espalier.errors import InputError
from espalier.hardware.tpus import PRICED, Tpu, tpu_named
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.settings import Settings

BY_DIGEST = re.compile(r"[^\s@]+/[^\s@]+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Location:
    """Where TPUs are, and where what belongs to them is kept."""

    project: str
    zone: str
    bucket: Folder

    @classmethod
    def of(cls, settings: Settings) -> "Location":
        """The settings' place.

        Raises:
            InputError: a setting is missing.
        """
        bucket = _needed(settings.bucket, "BUCKET", "gs://<bucket>/<prefix> in that region")
        if "://" in bucket and not bucket.startswith("gs://"):
            raise InputError(f"BUCKET={bucket} is not understood; give gs://<bucket>/<prefix>.")
        return cls(
            _needed(settings.project, "PROJECT", "the project that pays"),
            _needed(settings.zone, "ZONE", "for example europe-west4-b"),
            Folder(bucket),
        )

    def ends(self, name: str) -> str:
        """The command that deletes a TPU here, complete."""
        where = f"PROJECT={self.project} ZONE={self.zone} BUCKET={self.bucket.url}"
        return f"make tpu-down NAME={name} {where}"

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.zone}"


@dataclass(frozen=True)
class Wanted:
    """A TPU to create."""

    tpu: Tpu
    place: Location
    spot: bool
    service_account: str = ""
    network: str = ""
    external_ip: bool = True
    privileged: bool = True

    @classmethod
    def of(cls, settings: Settings) -> "Wanted":
        """The settings' TPU.

        Raises:
            InputError: a setting is missing, or there is no such TPU.
        """
        return cls(
            tpu_named(_needed(settings.tpu, "TPU", "for example v5litepod-16")),
            Location.of(settings),
            settings.spot,
            settings.tpu_service_account or "",
            settings.tpu_network or "",
            settings.tpu_external_ip,
            settings.tpu_privileged,
        )

    def describe(self) -> str:
        """What it is, what it costs and what quota it takes, before it is created."""
        tpu = self.tpu
        kind = "preemptible" if self.spot else "on-demand"
        price = f"{tpu.dollars_per_hour:.2f} USD an hour on demand (list price of {PRICED}"
        return (
            f"{tpu.type}{' spot' if self.spot else ''} in {self.place.zone}: {tpu.chips} chips, "
            f"{tpu.workers} worker{'s' if tpu.workers > 1 else ''}; {price}"
            f"{', less when spot' if self.spot else ''}); takes quota for {tpu.chips} {kind} "
            f"{tpu.generation.name} chips in {self.place.project}."
        )

    @property
    def account_warning(self) -> str:
        """What it means that no account is stated; empty where one is."""
        if self.service_account:
            return ""
        return (
            "TPU_SERVICE_ACCOUNT is not given: the hosts are the project's default account, which "
            "is often its editor, so they get the storage's scope alone, and cannot delete their "
            "slice when this command dies; make tpu-reap does."
        )


def image_reference(settings: Settings) -> str:
    """TPU_IMAGE, by digest: every worker and every attempt must run the same.

    Raises:
        InputError: it is missing, or is named by a tag.
    """
    example = "europe-docker.pkg.dev/p/r/espalier-maxtext@sha256:…"
    reference = _needed(settings.tpu_image, "TPU_IMAGE", f"for example {example}")
    if not BY_DIGEST.fullmatch(reference):
        raise InputError(
            f"TPU_IMAGE={reference} is not a registry's image by digest; give {example}, as "
            "docker push has printed it."
        )
    return reference


def _needed(value: str | None, name: str, what: str) -> str:
    if not value:
        raise InputError(f"{name} is needed for a TPU VM: {what}.")
    return value
