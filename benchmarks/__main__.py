"""`make bench`: the pruning benchmark, or with `depth` as first word the depth search's."""

import sys

from benchmarks import depth, pruning

if sys.argv[1:2] == ["depth"]:
    depth.main(sys.argv[2:])
else:
    pruning.main(sys.argv[1:])
