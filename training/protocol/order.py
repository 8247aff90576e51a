"""Which window each sample of a run is: an order that no number of processes changes."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt


class Order:
    """Every window once an epoch, shuffled anew for each; sample i of a run is always the same."""

    def __init__(self, windows: int, seed: int) -> None:
        self._windows, self._seed = windows, seed

    def windows_of(self, first: int, end: int) -> npt.NDArray[np.int64]:
        """The windows of samples `first` to `end` of the run, int64 [end - first]."""
        samples = np.arange(first, end)
        epochs, places = samples // self._windows, samples % self._windows
        found = np.empty_like(samples)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = shuffled(self._windows, self._seed, int(epoch))[places[here]]
        return found


@lru_cache(maxsize=2)
def shuffled(windows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of the windows, int64 [windows]."""
    return np.random.default_rng((seed, epoch)).permutation(windows)
