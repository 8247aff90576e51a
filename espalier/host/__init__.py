"""All that starts things: commands, plans, images and runtimes. It imports no torch."""
