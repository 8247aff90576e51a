"""How an engine maps users and labels files, as it says itself; what `run` must be told follows.

A stage's files are to be the caller's own, and the caller's files readable in the container,
whatever the engine does for its own protection.
"""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Security:
    """What of an engine's set-up decides whose the files are.

    Attributes:
        rootless: its root is a user of the machine, and all other users are that one's spare ids.
        remapped: docker's userns-remap: its users are spare ids, unless a container asks not to be.
        selinux: containers may only touch files that are labelled for containers.
    """

    rootless: bool = False
    remapped: bool = False
    selinux: bool = False

    @classmethod
    def read(cls, info: str) -> "Security | None":
        """What docker's or podman's `info` says as JSON; None where it says nothing of it."""
        try:
            said: Any = json.loads(info)
            if "host" in said:  # podman
                own = said["host"]["security"]
                return cls(rootless=bool(own["rootless"]), selinux=bool(own["selinuxEnabled"]))
            options = {str(option).partition(",")[0] for option in said["SecurityOptions"]}
        except (ValueError, KeyError, TypeError):
            return None
        names = ("name=rootless", "name=userns", "name=selinux")
        return cls(*(name in options for name in names))

    def flags(self, engine: str, uid: int, gid: int) -> list[str]:
        """Flags of `run` with which a container is the caller, and reaches the caller's files.

        Files are not relabelled for SELinux: they are the user's own, and may be on a server.
        """
        user = f"--user={uid}:{gid}"
        names: list[str] = []
        if self.rootless and engine == "podman":
            names = ["--userns=keep-id"]
        elif self.rootless:
            user = "--user=0:0"
        elif self.remapped:
            names = ["--userns=host"]
        return [user, *names, *["--security-opt=label=disable"] * self.selinux]

    def rows(self, engine: str) -> dict[str, str]:
        """What is unusual about it, a sentence each."""
        found = {}
        if self.rootless and engine == "podman":
            found["users"] = "rootless: stages keep your id (--userns=keep-id)"
        elif self.rootless:
            found["users"] = (
                "rootless: stages run as root of its namespace, who is you outside of it; for "
                "docker compose set ESPALIER_USER=0:0"
            )
        elif self.remapped:
            found["users"] = (
                "remapped: stages opt out (--userns=host), so that results are yours; for docker "
                "compose make the store writable for the remapped id"
            )
        if self.selinux:
            found["SELinux"] = (
                "on: stages run without its label (label=disable), since your files would have to "
                "be relabelled for it; all else that confines them stays"
            )
        return {f"{engine} {name}": text for name, text in found.items()}
