"""The packages of image `maxtext` fit together: they import, and JAX computes on the CPU."""

import importlib
import os
import subprocess
import sys

import pytest

from espalier.host.images.definition import IMAGES

pytestmark = pytest.mark.maxtext

OFFLINE = {"DECOUPLE_GCLOUD": "TRUE", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
"""As in the image."""


def alone(program: str) -> str:
    """What a python prints that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | OFFLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_maxtext_trains_with_imports_without_torch() -> None:
    names = (IMAGES / "maxtext" / "imports.txt").read_text().split()
    assert {"jax", "flax", "grain", "orbax.checkpoint", "maxtext.trainers.pre_train.train"} <= {
        *names
    }
    program = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
    assert alone(f"{program}print('torch' in sys.modules)").split()[-1] == "False"


def test_jax_computes_and_differentiates() -> None:
    program = "import jax, jax.numpy as np; f = jax.jit(jax.grad(lambda x: (x @ x).sum())); "
    program += "print(jax.default_backend(), f(np.eye(3)).sum())"
    assert alone(program).split() == ["cpu", "18.0"]


@pytest.mark.parametrize("name", ["espalier.run_stage", "espalier.contract.discovery"])
def test_what_starts_a_stage_needs_no_torch(name: str) -> None:
    importlib.import_module(name)
    assert "torch" not in sys.modules
    importlib.import_module("espalier.contract.discovery").stages()
    assert "torch" not in sys.modules
