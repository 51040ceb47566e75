"""The evaluation program: few-shot accuracy of every model, and the waterfall of all of them."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import os
import sys
import time
import traceback
from dataclasses import asdict
from typing import Any

from hyperclova_core.evaluation.config import EvaluationJobConfig
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.errors import HyperclovaError

log = logging.getLogger("hyperclova.evaluate")


def run(config: EvaluationJobConfig) -> dict[str, Any]:
    """Evaluate, draw, and write `waterfall.png` and `waterfall.csv`; the result."""
    from hyperclova_core.evaluation.waterfall import crossings, curve_of, describe, draw
    from hyperclova_core.training.metrics import read_history

    accuracies = _few_shot(config)
    curves = [
        curve_of(model.name, model.non_embedding_parameters, read_history(model.history))
        for model in config.models
        if model.history
    ]
    found = crossings(curves)
    if curves:
        draw(curves, storage.join(config.output, "waterfall.png"))
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["size", "non_embedding_parameters", "tokens", "flops", "loss"])
        for curve in curves:
            writer.writerows(
                [curve.name, curve.non_embedding_parameters, *point]
                for point in zip(curve.tokens, curve.flops, curve.loss, strict=True)
            )
        storage.write_bytes(storage.join(config.output, "waterfall.csv"), table.getvalue().encode())
    for line in describe(found):
        log.info("%s", line)
    return {"nsmc": accuracies, "crossings": found, "crossings_in_words": describe(found)}


def _few_shot(config: EvaluationJobConfig) -> dict[str, Any]:
    from hyperclova_core.evaluation.nsmc import evaluate, read_reviews
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer
    from hyperclova_core.training.export.export import load_model

    settings = config.evaluate
    if not settings.nsmc_shots or not settings.nsmc_test:
        return {}
    tokenizer = Tokenizer.load(config.tokenizer)
    shots, test = (
        read_reviews(storage.data_path(settings.nsmc_shots)),
        read_reviews(storage.data_path(settings.nsmc_test))[: settings.max_test],
    )
    results = {}
    for model in config.models:
        accuracy = evaluate(
            load_model(model.folder), tokenizer, shots, test, settings.shots, settings.prompt_sets, config.seed
        )
        results[model.name] = asdict(accuracy)
        log.info(
            "%s: NSMC-style accuracy %.3f (95%% %.3f to %.3f, %d reviews, %d shots)",
            model.name,
            accuracy.accuracy,
            accuracy.low,
            accuracy.high,
            accuracy.reviews,
            accuracy.shots,
        )
    return results


def main() -> None:
    """Entry point: `--config FILE`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--config", required=True)
    path = arguments.parse_args().config
    output = os.path.dirname(os.path.abspath(path))
    try:
        config = parse(EvaluationJobConfig, storage.read_json(path), path)
        storage.write_json(storage.join(config.output, "result.json"), run(config))
    except HyperclovaError as error:
        traceback.print_exc()
        storage.write_json(
            storage.join(output, "cause-0.json"), {**error.to_dict(), "exit_code": error.exit_code, "time": time.time()}
        )
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
