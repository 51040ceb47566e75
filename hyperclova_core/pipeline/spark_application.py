"""The Spark application of every stage: `spark-submit spark_application.py --warehouse DIR --run RUN --stage KEY`.

A failure leaves `failures/KEY.json` in the run's folder, for whoever started the application, and ends with the exit
code of its kind.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import traceback
import warnings

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import HyperclovaError
from hyperclova_core.foundation.lineage import deliver
from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.pipeline import spark_events
from hyperclova_core.pipeline.run import run_key
from hyperclova_core.pipeline.stage_requests import recipe_of


def failure_path(run: RunFolder, key: str) -> str:
    """Where a stage leaves its last failure."""
    return storage.join(run.uri, "failures", f"{key}.json")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage of a run; the exit code."""
    parser = argparse.ArgumentParser(description="Run one Spark stage of a prepared run.")
    parser.add_argument("--warehouse", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--stage", required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    warnings.filterwarnings("ignore")
    log = logging.getLogger("hyperclova.stage")
    log.setLevel(logging.INFO)
    warehouse = Warehouse(options.warehouse)
    run = warehouse.run(options.run)
    engine, events = None, spark_events.local_folder(run, options.stage)
    try:
        engine = SparkEngine({**spark_events.settings(events), **recipe_of(run).spark})
        spark_events.note_application(run, options.stage, str(engine.spark().sparkContext.applicationId))
        threading.Thread(target=_warm_up, daemon=True).start()
        outcome = run_key(warehouse, run, options.stage, engine)
        counters = outcome.dataset.manifest.counters
        log.info(
            "%s %s: %d in, %d kept, %d rejected, %d quarantined, %.1f s, %d units taken over from an earlier attempt; digest %s",
            options.stage,
            "reused" if outcome.reused else "done",
            counters.rows_in,
            counters.kept,
            sum(counters.rejected.values()),
            sum(counters.quarantined.values()),
            outcome.seconds,
            outcome.taken_over,
            outcome.dataset.manifest.digest,
        )
        deliver(warehouse)
        return 0
    except HyperclovaError as error:
        log.error("%s", error.message())
        storage.write_json(failure_path(run, options.stage), {**error.to_dict(), "exit_code": error.exit_code})
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        if engine is not None:
            engine.close()
            _keep(run, events, log)


def _keep(run: RunFolder, events: str, log: logging.Logger) -> None:
    """A stage that is done stays so where the store does not take the log of how."""
    try:
        spark_events.keep(run, events)
    except HyperclovaError as error:
        log.warning("The Spark event log stays on this machine, in %s: %s", events, error.message())


def _warm_up() -> None:
    """Import what gates and lineage need while the stage works: both take seconds."""
    import great_expectations  # noqa: F401
    import mlflow.tracking  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
