"""The model card: what a model is, what it was trained on, how good it is, in Hugging Face's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclova_core.training.model.sizes import ModelSize


def model_card(
    name: str,
    model: ModelSize,
    record: Mapping[str, Any],
    export: Mapping[str, Any],
    corpus: Mapping[str, Any],
    result: Mapping[str, Any],
) -> str:
    """The card's text.

    Args:
        record: manifest of the checkpoint; export: its step and what the gate saw.
        corpus: `corpus_digest`, `mixture` (leaf → share), `licences` (source → licence), `recipe`, where known.
        result: summary of the training, where known.
    """
    vocabulary, sequence_length = int(record["vocabulary"]), int(record["sequence_length"])
    licences: Mapping[str, str] = corpus.get("licences") or {}
    lines = [
        "---",
        "language: ko",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "license: other",
        "---",
        "",
        f"# {result.get('size', name)}",
        "",
        "한국어 텍스트로 사전학습한 GPT입니다. A GPT pretrained on Korean text: pre-norm blocks, GELU, learned positions, tied embeddings.",
        "",
        f"- {model.layers} layers, hidden size {model.hidden_size}, {model.heads} heads, sequence length {sequence_length}, vocabulary {vocabulary:,}",
        f"- {model.parameters(vocabulary, sequence_length):,} parameters, {model.non_embedding_parameters:,} without embeddings",
        f"- checkpoint of step {export['step']:,}, {int(record['consumed_samples']) * sequence_length:,} tokens read",
        f"- exported after its loss in transformers equalled the trainer's model within {export['difference']:.1e}",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".", trust_remote_code=True)',
        "```",
        "",
        "A text begins after the end-of-document mark: put its id before a prompt.",
        "",
    ]
    if result:
        lines += ["## Evaluation", "", "| what | value |", "|---|---|"]
        lines.append(f"| training loss | {float(result['loss']):.4f} |")
        if result.get("validation_loss") is not None:
            lines.append(f"| validation loss | {float(result['validation_loss']):.4f} |")
        if result.get("validation_bits_per_byte"):
            lines.append(f"| validation bits per byte | {float(result['validation_bits_per_byte']):.4f} |")
        for source, (loss, bits, tokens) in (result.get("validation_by_source") or {}).items():
            lines.append(
                f"| … {source} ({tokens:,} tokens) | {loss:.4f}{f', {bits:.4f} bits per byte' if bits else ''} |"
            )
        lines.append("")
    lines += ["## Corpus", ""]
    for key, words in (
        ("recipe", "recipe"),
        ("corpus_digest", "digest of the token shards"),
        ("tokenizer_digest", "digest of the tokenizer"),
    ):
        if corpus.get(key):
            lines.append(f"- {words}: `{corpus[key]}`")
    if corpus.get("mixture"):
        lines += ["", "| part of the mixture | share of tokens |", "|---|---|"]
        lines += [
            f"| {leaf} | {100 * share:.2f} % |"
            for leaf, share in sorted(corpus["mixture"].items(), key=lambda item: -item[1])
        ]
    lines += ["", "## Licences of the sources", ""]
    if licences:
        lines += [
            "| source | licence |",
            "|---|---|",
            *(f"| {source} | {licence} |" for source, licence in sorted(licences.items())),
        ]
    else:
        lines.append("Not known here: the training was not given them.")
    return "\n".join(lines) + "\n"
