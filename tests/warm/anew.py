"""Forgets, in a process that was forked for a command, all of our modules but the tests' own."""

import sys

from espalier.contract.paths import PACKAGES

for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
    del sys.modules[name]
if elastic := sys.modules.get("torch.distributed.elastic.rendezvous.api"):
    # Where a module of ours enters itself, and may do so once.
    elastic.rendezvous_handler_registry._registry.pop("head", None)
