"""Makes a text on a TPU VM, in a hurry: `python -m tests.soak.on_tpus STORE BUCKET NAME`.

No image for TPUs has a stage that is cheap; one for CPUs stands in.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from espalier.errors import EspalierError
from espalier.host.images import load_image
from espalier.host.runtimes.tpu_vm import runtime
from tests.tpu.asking import make_text, settings


def main(store: Path, bucket: Path, name: str) -> int:
    """Exit code, after a sentence, as the command line has it."""
    runtime.load_image = lambda image: SimpleNamespace(  # type: ignore[assignment]
        lock_hash=lambda device: load_image(image).lock_hash("cpu")
    )
    try:
        print(make_text(settings(store, store=store, bucket=str(bucket)), name))
    except EspalierError as error:
        if str(error):
            print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
