"""What rich would print, as text."""

from rich.console import Console, RenderableType


def rendered(renderable: RenderableType) -> str:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()
