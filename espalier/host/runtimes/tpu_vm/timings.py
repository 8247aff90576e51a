"""How long everything may take, in seconds; tests take a fraction of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """The launcher's and the workers' patience.

    Attributes:
        poll, poll_most: between two looks at a TPU, at first and after having doubled.
        call: for one call of the API or the bucket to be answered.
        retry: for how long one call of the API is repeated when the network fails.
        outage: for how long nothing may answer while a TPU is followed; it is kept meanwhile.
        silence: after which a worker that does not report is given up.
        straggle: for the other workers, after one has ended well; the first one writes the result.
        grace: for the workers to save, once they are asked to stop.
        settle: until the API surely says so, when a worker ended because its host did.
        delete: until a deleted TPU must be gone.
        heartbeat: between two reports of a worker.
        lease: after which a launcher on another machine, that has not been seen, is gone.
        abandoned: after which a slice whose work is over deletes itself when no launcher is seen.
        barrier: for all workers to be ready, as each of them waits itself.
        attempt: between two attempts, doubled each time, of a worker's pull or copy.
    """

    poll: float = 5
    poll_most: float = 30
    call: float = 20
    retry: float = 300
    outage: float = 3600
    silence: float = 600
    straggle: float = 1800
    grace: float = 300
    settle: float = 90
    delete: float = 900
    heartbeat: float = 30
    lease: float = 300
    abandoned: float = 6 * 3600
    barrier: float = 3600
    attempt: float = 10
