"""A run in one table: documents kept and dropped a stage with reasons, tokens, models, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperclova_core.foundation.warehouse import RunFolder
from hyperclova_core.pipeline.graph import NODES, SPARK_STAGES

SHOWN_REASONS = 4


def summary_of(run: RunFolder) -> dict[str, Any]:
    """Everything that the final table shows, as JSON."""
    results = run.stage_results()
    ordered = [key for name in NODES for key in results if results[key].stage == name]
    sizes = run.record().sizes
    ordered.sort(
        key=lambda key: (
            list(NODES).index(results[key].stage),
            sizes.index(key[6:]) if key.startswith("train-") else 0,
        )
    )
    stages: list[dict[str, Any]] = []
    for key in ordered:
        result = results[key]
        counters = result.counters
        quarantined = {f"quarantined: {reason}": number for reason, number in counters.quarantined.items()}
        dropped = {**counters.rejected, **quarantined}
        stages.append(
            {
                "stage": key,
                "in": counters.rows_in,
                "kept": counters.kept,
                "dropped": result.dropped,
                "reasons": dict(largest_first(dropped)),
                "text_bytes_in": counters.text_bytes_in,
                "text_bytes_kept": counters.text_bytes_kept,
                "seconds": result.seconds,
                "reused": result.reused,
                "made_by": result.made_by,
            }
        )
    evaluated = (results["evaluate"].result or {}) if "evaluate" in results else {}
    accuracies = evaluated.get("nsmc", {})
    models = [_model(results[key].result or {}, accuracies) for key in ordered if key.startswith("train-")]
    tokens = {}
    if "serialize" in results:
        tokens = {
            name.removeprefix("tokens_"): int(value)
            for name, value in results["serialize"].counters.custom.items()
            if name.startswith("tokens_")
        }
    return {
        "run_id": run.record().run_id,
        "recipe": run.record().recipe_name,
        "stages": stages,
        "tokens": tokens,
        "models": models,
        "documents": results["select"].counters.kept if "select" in results else 0,
        "crossings": evaluated.get("crossings_in_words", []),
        "reused": sum(stage["reused"] for stage in stages),
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
    }


def _model(result: dict[str, Any], accuracies: dict[str, Any]) -> dict[str, Any]:
    accuracy = accuracies.get(result["size"])
    return {
        "size": result["size"],
        "non_embedding_parameters": result["non_embedding_parameters"],
        "tokens": result["tokens"],
        "processes": result["processes"],
        "loss": round(result["loss"], 4),
        "validation_loss": round(result["validation_loss"], 4) if result["validation_loss"] is not None else None,
        "bits_per_byte": result["validation_bits_per_byte"],
        "nsmc_accuracy": accuracy["accuracy"] if accuracy else None,
        "nsmc_interval": [accuracy["low"], accuracy["high"]] if accuracy else None,
        "nsmc_reviews": accuracy["reviews"] if accuracy else 0,
    }


def reasons_in_words(stage: dict[str, Any]) -> str:
    """Why documents of a stage were dropped, the most frequent first; how many reasons are not named, and of how many documents."""
    return in_words(stage["reasons"], SHOWN_REASONS)


def largest_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counts from the largest down, equal ones by name: whoever stored them (JSON sorts its keys) has lost their order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def in_words(counts: Mapping[str, int], shown: int) -> str:
    """The largest counts, and what the rest comes to: `spam 970, abuse 5 and 3 more reasons: 12 documents`."""
    ordered = largest_first(counts)
    return ", ".join(f"{reason} {number:,}" for reason, number in ordered[:shown]) + rest_in_words(ordered[shown:])


def rest_in_words(rest: Sequence[tuple[str, int]]) -> str:
    """What is not named one by one."""
    if not rest:
        return ""
    number = sum(count for _, count in rest)
    return f" and {len(rest)} more reason{'s' * (len(rest) > 1)}: {number:,} document{'s' * (number != 1)}"


def to_markdown(summary: dict[str, Any]) -> str:
    """The summary as two Markdown tables."""
    lines = [
        f"# {summary['recipe']}: {summary['run_id']}",
        "",
        "| stage | in | kept | dropped | why | seconds | reused |",
        "|---|--:|--:|--:|---|--:|---|",
    ]
    for stage in summary["stages"]:
        if stage["stage"] in SPARK_STAGES:
            counts = f"{stage['in']:,} | {stage['kept']:,} | {stage['dropped']:,}"
            reused = "yes" if stage["reused"] else ""
            lines.append(
                f"| {stage['stage']} | {counts} | {reasons_in_words(stage)} | {stage['seconds']:.1f} | {reused} |"
            )
    lines += [
        "",
        "| model | parameters (non-embedding) | tokens | loss | validation loss | bits per byte | NSMC-style accuracy |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for model in summary["models"]:
        bits = f"{model['bits_per_byte']:.3f}" if model["bits_per_byte"] is not None else ""
        sizes = f"{model['size']} | {model['non_embedding_parameters']:,} | {model['tokens']:,}"
        held = model["validation_loss"]
        losses = f"{model['loss']:.3f} | {held:.3f}" if held is not None else f"{model['loss']:.3f} | —"
        lines.append(f"| {sizes} | {losses} | {bits} | {accuracy_in_words(model)} |")
    lines += ["", *(f"- {line}" for line in summary["crossings"])]
    return "\n".join(lines) + "\n"


def accuracy_in_words(model: dict[str, Any]) -> str:
    """Accuracy with its interval: on few reviews it says little, and that is said."""
    if model["nsmc_accuracy"] is None:
        return ""
    low, high = model["nsmc_interval"]
    return f"{model['nsmc_accuracy']:.2f} (95 %: {low:.2f}–{high:.2f}, {model['nsmc_reviews']} reviews, chance 0.50)"
