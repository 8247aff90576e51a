"""`make bench`: pruning; with `depth` or `training` as first word the depth search or training."""

import sys

if sys.argv[1:2] == ["training"]:
    from benchmarks import training

    training.main(sys.argv[2:])
elif sys.argv[1:2] == ["depth"]:
    from benchmarks import depth

    depth.main(sys.argv[2:])
else:
    from benchmarks import pruning

    pruning.main(sys.argv[1:])
