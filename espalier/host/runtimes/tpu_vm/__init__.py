"""TPU VMs: a stage's container on every host of a slice that is made for it and deleted after."""
