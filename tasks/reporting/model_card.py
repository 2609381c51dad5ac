"""Model card of an exported model, ``README.md``, from the manifests of its lineage.

The text depends on those alone, never on when or where it was written. Pruned artifacts are left
out. Called by export_model; register_model shows later scores in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.config.outputs import (
    MeasuredFacts,
    ScoreModelOutputs,
    TrainModelOutputs,
)
from model.config.trained_model import SamplingConfig
from model.core.artifact import Manifest
from model.core.errors import ArtifactError
from model.core.outputs import Outputs, ancestors
from model.core.store import ArtifactStore
from tasks.corpus.sources.licences import LICENCES, UNKNOWN_LICENCE, Licence
from tasks.reporting.funnel import Funnel, funnel
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.evaluation_ngrams import EvaluationNgramsOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.judge_texts import JudgeTextsOutputs
from tasks.stages.select_quality import SelectQualityOutputs

DATA_STAGES: tuple[type[Outputs[Any, Any]], ...] = (
    FilterDocumentsOutputs,
    DuplicateClustersOutputs,
    EvaluationNgramsOutputs,
    SelectQualityOutputs,
)
LARGE = 1e6  # larger numbers are shown by their leading digits: the perplexity of a bad model
TRAINED_BY_PROJECT = "made by this project; no third-party text"
LIMITS = (
    "It is small: it writes fluent text and knows little. What it states may be false.",
    "It saw one language, and nothing newer than its source.",
    "It repeats what its source contains, unwanted opinions and errors included; nothing was "
    "done to make its answers safe for people who depend on them.",
    "Beyond its context, the earliest text is forgotten.",
)


@dataclass(frozen=True)
class Lineage:
    """Manifests of a trained model and of all its ancestors, nearest first."""

    trained: Manifest
    ancestors: Sequence[Manifest]

    @classmethod
    def of(cls, trained: Manifest, store: ArtifactStore) -> Lineage:
        """Return the lineage of a train_model artifact."""
        return cls(trained, tuple(ancestors(trained, store)))

    @property
    def trainings(self) -> list[Manifest]:
        """The trainings that led to the model, the last one first."""
        return [self.trained, *TrainModelOutputs.among(self.ancestors)]


def model_card(
    lineage: Lineage, *, scores: Iterable[Manifest] = (), sampling: SamplingConfig
) -> str:
    """Return the card of a trained model.

    Args:
        scores: of artifacts that measured it.
        sampling: the default sampling settings of runtimes.
    """
    licences = _licences(lineage)
    sections = [
        _front_matter(lineage, licences),
        f"# {_name(lineage)}",
        "A small language model, trained from scratch by *LLM from scratch*. It is a stock Qwen3: "
        "transformers, vLLM and llama.cpp (`model.gguf`, where it is here) load it as it is.",
        f"```python\n{_EXAMPLE}\n```",
        "## Network",
        _listed(_network(lineage.trained)),
        "## Data",
        _listed(licences),
        *_corpus(lineage),
        "## Training",
        *(_training(item) for item in lineage.trainings),
        "## Scores",
        score_table(scores, trained=lineage.trained),
        "## Writing with it",
        "Conversations are ChatML; the template is in the tokenizer's files. A text begins with "
        "`<|endoftext|>` and ends with it; a turn ends with `<|im_end|>`. Sampling defaults:",
        _listed(sampling.model_dump()),
        "## Limits",
        "\n".join(f"- {text}" for text in LIMITS),
    ]
    return "\n\n".join(sections) + "\n"


def score_table(scores: Iterable[Manifest], *, trained: Manifest | None = None) -> str:
    """Return all scores, and what could not be measured, as Markdown.

    Args:
        scores: of artifacts that measured a model.
        trained: the model's training, for its own validation.
    """
    rows = _own_scores(trained) if trained else {}
    missing: dict[str, str] = {}
    for item in scores:
        facts = measured_facts(item)
        missing |= facts.unmeasured
        rows |= {f"{item.artifact.stage}: {name}": value for name, value in facts.scores.items()}
    lines = [f"| {name} | {_number(value)} |" for name, value in rows.items()]
    notes = [
        "Scores compare only between models measured on the same documents, items and prompts."
    ]
    notes += [f"Not measured: {name}, because {reason}." for name, reason in missing.items()]
    return "\n".join(["| score | value |", "|---|--:|", *lines, "", *notes])


def measured_facts(manifest: Manifest) -> MeasuredFacts:
    """Return the facts of an artifact that measured a model, whatever its stage."""
    stages = (ScoreModelOutputs, JudgeTextsOutputs)
    (outputs,) = (item for item in stages if item.made(manifest))
    return outputs.facts_of(manifest)


def _own_scores(trained: Manifest) -> dict[str, float]:
    facts = TrainModelOutputs.facts_of(trained)
    rows = {"training: validation_loss": facts.validation_loss}
    if facts.validation_bits_per_byte is not None:
        rows["training: validation_bits_per_byte"] = facts.validation_bits_per_byte
    return rows


_EXAMPLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
messages = [{"role": "user", "content": "Who are you?"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids)[0]))"""


def _front_matter(lineage: Lineage, licences: Mapping[str, str]) -> str:
    data_sets = [name for name in licences if "/" in name]
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if data_sets:
        lines += ["datasets:", *(f"- {name}" for name in data_sets)]
    language = next((item.derivation.config.get("language") for item in _filters(lineage)), None)
    if language:
        lines.append(f"language: {language}")
    return "\n".join(["---", *lines, "---"])


def _filters(lineage: Lineage) -> list[Manifest]:
    return FilterDocumentsOutputs.among(lineage.ancestors)


def _name(lineage: Lineage) -> str:
    size = lineage.trained.derivation.config.get("model", {}).get("size", "")
    return " ".join(word for word in (lineage.trained.artifact.name, size) if word)


def _network(trained: Manifest) -> dict[str, Any]:
    config = trained.derivation.config.get("model", {})
    geometry = config.get("geometry", {})
    plain = {name: value for name, value in config.items() if name != "geometry"}
    return {**plain, **geometry}


def _licences(lineage: Lineage) -> dict[str, str]:
    """Return the sources of a model's training data, and their licences."""
    found: dict[str, str] = {}
    for item in lineage.ancestors:
        config = item.derivation.config
        if "repo" in config:
            terms: Licence = LICENCES.get(str(config["repo"]), UNKNOWN_LICENCE)
            found[str(config["repo"])] = f"{terms.identifier}: {terms.terms}"
        elif config.get("kind") == "demo":
            found["demo"] = TRAINED_BY_PROJECT
        elif config.get("kind") == "local":
            found["local files"] = f"{UNKNOWN_LICENCE.identifier}: {UNKNOWN_LICENCE.terms}"
    return found


def _corpus(lineage: Lineage) -> list[str]:
    """Return the corpus funnel, and the settings of the data stages."""
    try:
        documents = _documents(funnel(lineage.ancestors))
    except ArtifactError:  # a stage was pruned or never ran
        documents = "Where its documents went is no longer known."
    settings: dict[str, Any] = {}
    for stage in DATA_STAGES:
        for item in stage.among(lineage.ancestors)[:1]:
            config = item.derivation.config
            settings |= {f"{stage.stage}.{key}": value for key, value in config.items()}
    return [documents, "Settings:", _listed(settings)] if settings else [documents]


def _documents(found: Funnel) -> str:
    rows = ["| stage | what | documents | % of source |", "|---|---|--:|--:|"]
    rows += [
        f"| {row.stage} | {row.what} | {row.documents:,} | {row.percent:.1f} |"
        for row in found.rows()
    ]
    return "\n".join([*rows, "", f"{found.num_training_tokens:,} tokens for training."])


def _training(trained: Manifest) -> str:
    config = {
        name: value
        for name, value in trained.derivation.config.get("train", {}).items()
        if value is not None
    }
    counts = TrainModelOutputs.counts_of(trained).plain()
    seen = {f"{name} seen": f"{count:,}" for name, count in counts.items()}
    return f"### {trained.artifact.name}\n\n{_listed(seen | config)}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < LARGE else f"{value:.4g}"


def _listed(settings: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    )
