"""`make bench`: pruning, or what the first word names: depth, gradients, training, ..."""

import sys

if sys.argv[1:2] == ["training"]:
    from benchmarks import training

    training.main(sys.argv[2:])
elif sys.argv[1:2] == ["maxtext"]:
    from benchmarks import maxtext

    maxtext.main(sys.argv[2:])
elif sys.argv[1:2] == ["plan-tpu"]:
    from benchmarks import plan_tpu

    plan_tpu.main(sys.argv[2:])
elif sys.argv[1:2] == ["depth"]:
    from benchmarks import depth

    depth.main(sys.argv[2:])
elif sys.argv[1:2] == ["greedy"]:
    from benchmarks import greedy

    greedy.main(sys.argv[2:])
elif sys.argv[1:2] == ["gradients"]:
    from benchmarks import gradients

    gradients.main(sys.argv[2:])
elif sys.argv[1:2] == ["units"]:
    from benchmarks import units

    units.main(sys.argv[2:])
elif sys.argv[1:2] == ["slicing"]:
    from benchmarks import slicing

    slicing.main(sys.argv[2:])
else:
    from benchmarks import pruning

    pruning.main(sys.argv[1:])
