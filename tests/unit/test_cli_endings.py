"""Exit codes of the command line itself, whatever typer makes of an ending."""

import subprocess
import sys

import pytest

from espalier.contract.paths import ROOT


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise KeyboardInterrupt", 75, "espalier: interrupted.\n"),
        ("raise InputError('this is wrong.')", 2, "espalier: this is wrong.\n"),
        (
            "raise OSError(5, 'Input/output error', '/store/x.lock')",
            3,
            "espalier: the store cannot be written: Input/output error; see to the disk or choose "
            "another store.\n",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
            75,
            "espalier: stopped by SIGTERM; run the same command to resume.\n",
        ),
        ("raise SystemExit(3)", 3, ""),
        ("raise typer.Exit(4)", 4, ""),
        ("pass", 0, ""),
    ],
)
def test_how_a_command_ends(body: str, code: int, says: str) -> None:
    program = (
        "import sys, time, typer, espalier.host.cli as c; from espalier.errors import InputError\n"
    )
    program += f"@c.app.command('ends')\ndef ends() -> None:\n    {body}\n"
    program += "sys.argv = ['espalier', 'ends']; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, says)
