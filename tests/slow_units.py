"""Makes units last: for Dask's workers to load before they begin (distributed.worker.preload)."""

import time

from data import units

# Dask loads it twice.
if units.run_unit.__module__ == units.__name__:
    _run_unit = units.run_unit

    def run_unit(*arguments) -> None:
        time.sleep(0.5)
        _run_unit(*arguments)

    units.run_unit = run_unit
