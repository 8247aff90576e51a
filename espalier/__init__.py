"""What every stage and the host share: store, contract, runtimes, models and calibration."""

__version__ = "0.1.0"
