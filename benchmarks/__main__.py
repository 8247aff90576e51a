"""`make bench`: the pruning benchmark with its defaults, or with the options given."""

from benchmarks.pruning import main

main()
