"""A small program as a job's, and specifications that run it on the double."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperclova_core.jobs.config import ClusterConfig
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
from hyperclova_core.jobs.spec import TrainJobSpec
from tests.jobs.fake_cluster import until

PROGRAM = """
import argparse, json, os, signal, sys, time
parser = argparse.ArgumentParser(); parser.add_argument("--config"); options = parser.parse_args()
config = json.load(open(options.config))
rank = os.environ.get("RANK", os.environ.get("HYPERCLOVA_NODE", "0"))
print("hello from", rank, flush=True)
for number in range(config.get("lines", 0)):
    print("line", number, flush=True)
    time.sleep(config.get("pause", 0))
def stop(number, frame):
    print("saving", flush=True); time.sleep(config.get("saving", 0.2)); sys.exit(75)
signal.signal(signal.SIGTERM, stop)
if config.get("cause") and rank == str(config.get("bad", 0)):
    json.dump({"time": time.time(), **config["cause"]}, open(config["output"] + "/cause-" + rank + ".json", "w"))
    sys.exit(1)
if config.get("fits") and config["train"]["size"]["parallel"]["micro_batch_size"] > config["fits"]:
    cause = {"type": "OutOfDeviceMemoryError", "what": "no memory", "exit_code": 71, "time": time.time()}
    json.dump(cause, open(config["output"] + "/cause-" + rank + ".json", "w"))
    sys.exit(1)
time.sleep(config.get("seconds", 0))
if rank == "0":
    json.dump({"rank": rank}, open(config["output"] + "/result.json", "w"))
"""


def job(
    folder: Path, name: str = "job-one", processes: int = 0, cluster: dict[str, Any] | None = None, **config: Any
) -> TrainJobSpec:
    output = str(folder / "out")
    settings = ClusterConfig.model_validate({"image": "trainer:1", "one_node_a_pod": False, **(cluster or {})})
    return TrainJobSpec(
        name,
        "job_program_for_clusters",
        {"output": output, **config},
        output,
        processes,
        grace_seconds=3,
        cluster=settings,
    )


def ended(backend: KubernetesBackend, spec: TrainJobSpec) -> Any:
    return until(lambda: (status := backend.get(spec)).state != "running" and status)
