"""`make run`: services up, DAG triggered, progress shown task by task, and a table at the end."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.local.airflow_api import AirflowApi
from hyperclova_core.local.services import Platform
from hyperclova_core.pipeline.summary import accuracy_in_words, reasons_in_words

DAG = "pretrain_hyperclova"
WATCH_SECONDS = 2.0
SIGNS = {"success": "✔", "failed": "✘", "upstream_failed": "✘", "skipped": "–", "up_for_retry": "↻"}


def trigger_and_watch(platform: Platform, recipe: str, params: dict[str, Any], seconds: float) -> tuple[str, str]:
    """Trigger the DAG and show its tasks until it ends; (run id, state)."""
    api = AirflowApi(platform.airflow_url, "admin", platform.password())
    api.wait_for_dag(DAG)
    for dag in (DAG, "refresh_corpus"):
        api.wait_for_dag(dag)
        api.unpause(dag)
    api.wait_for_recipe(DAG, recipe)
    going = api.running_runs(DAG)
    if going and going[0][1].get("recipe", "demo") != recipe:
        raise ConfigError(
            "Another run is going on",
            where=going[0][0],
            why=f"it runs recipe {going[0][1].get('recipe', 'demo')}, and one run goes at a time",
            remedy="wait for its end, or end it in Airflow",
        )
    if going:
        run_id = going[0][0]
        say(f"A run is going on already, watching it: {run_id}")
    else:
        run_id = api.trigger(DAG, {"recipe": recipe, **params})
        say(f"Triggered {DAG}: {run_id}")
    say(
        f"  Airflow  {platform.airflow_url}/dags/{DAG}/runs/{run_id.replace('+', '%2B').replace(':', '%3A')}   (admin / {platform.password()})"
    )
    say(f"  MLflow   {platform.mlflow_url}")
    return run_id, watch(api, run_id, seconds)


def watch(api: AirflowApi, run_id: str, seconds: float) -> str:
    """One line a task as it starts and ends; the run's last state."""
    shown: dict[tuple[str, int], str] = {}
    started = time.monotonic()
    while True:
        state = api.run_state(DAG, run_id)
        for task in sorted(api.tasks(DAG, run_id), key=lambda item: (item.get("start_date") or "9", item["task_id"])):
            key, now = (task["task_id"], task["map_index"]), str(task["state"])
            if shown.get(key) == now or now in ("None", "scheduled", "queued"):
                continue
            shown[key] = now
            label = task["task_id"] + (
                f" [{task.get('rendered_map_index') or task['map_index']}]" if task["map_index"] >= 0 else ""
            )
            if now == "running":
                say(f"  {_clock(started)}  … {label}")
            else:
                say(
                    f"  {_clock(started)}  {SIGNS.get(now, '·')} {label:<24} {now:<10} {task.get('duration') or 0:6.1f} s"
                )
                if now in ("failed", "up_for_retry"):
                    for line in api.log_tail(DAG, run_id, task):
                        say(f"        | {line}")
        if state in ("success", "failed"):
            return state
        if time.monotonic() - started > seconds:
            say(f"Still {state} after {seconds:.0f} s: giving up watching, the run goes on")
            return state
        time.sleep(WATCH_SECONDS)


def show_table(platform: Platform, run_id: str, seconds: float) -> None:
    """What came of the run: documents by stage with reasons, tokens, models."""
    path = storage.join(Warehouse(str(platform.warehouse)).run(run_id).uri, "summary.json")
    if not storage.exists(path):
        return
    summary = storage.read_json(path)
    width = shutil.get_terminal_size((140, 40)).columns
    say("")
    say(f"{'stage':<14}{'in':>8}{'kept':>8}{'dropped':>9}{'seconds':>9}  why, or reused from")
    for stage in summary["stages"]:
        why = f"reused from {stage['made_by']}" if stage["reused"] else reasons_in_words(stage)
        if stage["in"]:
            line = f"{stage['stage']:<14}{stage['in']:>8,}{stage['kept']:>8,}{stage['dropped']:>9,}{stage['seconds']:>9.1f}  {why}"
        else:
            line = f"{stage['stage']:<14}{'':>25}{stage['seconds']:>9.1f}  {why}"
        say(line[: max(100, width)])
    tokens = summary["tokens"]
    say("")
    say(f"tokens: {tokens.get('train', 0):,} to train on, {tokens.get('validation', 0):,} held out")
    say(
        f"{'model':<8}{'parameters':>12}{'tokens':>12}{'processes':>11}{'loss':>8}{'validation':>12}{'bits/byte':>11}  NSMC-style accuracy"
    )
    for model in summary["models"]:
        bits = f"{model['bits_per_byte']:.3f}" if model["bits_per_byte"] is not None else ""
        say(
            f"{model['size']:<8}{model['non_embedding_parameters']:>12,}{model['tokens']:>12,}{model['processes']:>11}{model['loss']:>8.3f}"
            f"{model['validation_loss']:>12.3f}{bits:>11}  {accuracy_in_words(model)}"
        )
    for line in summary["crossings"]:
        say(f"  {line}")
    if summary["curves"]:
        say(f"loss of all sizes against tokens: {summary['curves']}")
    reused = sum(stage["reused"] for stage in summary["stages"])
    say("")
    say(
        f"{len(summary['stages'])} stages, {reused} reused unchanged from earlier runs; {seconds:.0f} s from trigger to end"
    )


def say(line: str) -> None:
    """A line for the person at the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _clock(started: float) -> str:
    elapsed = int(time.monotonic() - started)
    return f"{elapsed // 60:02d}:{elapsed % 60:02d}"
