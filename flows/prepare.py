"""Flow prepare: from raw shards to token shards and a tokenizer.

prefect deployment run prepare/sample
python -m flows.prepare --preset sample --dry-run
"""

from __future__ import annotations

from flows.settings.cli import read_command
from flows.settings.config import PrepareConfig

COMMAND = read_command(PrepareConfig, __name__, __doc__)  # before what is slow to import

from dataclasses import dataclass

from flows.configured import ConfiguredFlow, Session, run_command
from flows.settings.resolve import ResolvedRun
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.reporting.run import report_data, report_funnel, report_page
from tasks.stages.download import download, source_files
from tasks.stages.duplicate_clusters import duplicate_clusters
from tasks.stages.evaluation_ngrams import evaluation_ngrams, listed_sets
from tasks.stages.filter_documents import FilterDocuments, filter_documents
from tasks.stages.find_contamination import find_contamination
from tasks.stages.report_corpus import report_corpus, report_inputs
from tasks.stages.score_quality import ScoreQuality, score_quality
from tasks.stages.select_quality import SelectQuality, select_quality
from tasks.stages.select_validation import SelectValidation, select_validation
from tasks.stages.signatures import signatures
from tasks.stages.tokenise import Split, Tokenise, tokenise
from tasks.stages.train_quality_model import labelled_documents, train_quality_model
from tasks.stages.train_tokenizer import TrainTokenizer, train_tokenizer
from tasks.stages.write_shards import WriteShards, write_shards


@dataclass(frozen=True)
class PreparedCorpus:
    """What training needs, shards of both splits and their tokenizer, and what people read."""

    tokenizer: Artifact
    training: Artifact
    validation: Artifact
    held_out: Artifact  # the validation documents as text
    report: Artifact


def prepare_corpus(pipeline: Pipeline, config: PrepareConfig) -> PreparedCorpus:
    """Walk the DAG from raw shards to token shards."""
    others = set(pipeline.steps)  # of the same run, such as conversations: no part of the corpus
    files = source_files(config.source, data_seed=config.data.seed, store=pipeline.store)
    raw = [pipeline.add(download, file.file.name, config=file, inputs={}) for file in files]
    validation = pipeline.add(
        select_validation,
        "validation",
        config=SelectValidation(
            validation=config.validation, language=config.filter.language, seed=config.data.seed
        ),
        inputs={"raw": raw[: config.validation.num_files]},
    )
    rules = FilterDocuments(filter=config.filter, personal_data=config.personal_data)
    parts = [
        pipeline.add(filter_documents, item.name, config=rules, inputs={"raw": item})
        for item in raw
    ]
    keys = [
        pipeline.add(signatures, item.name, config=config.dedup.signatures(), inputs={"part": item})
        for item in parts
    ]
    tokenizer = pipeline.add(
        train_tokenizer,
        "bpe",
        config=TrainTokenizer(tokenizer=config.tokenizer, seed=config.data.seed),
        inputs={"part": parts[: config.tokenizer.num_files], "validation": validation},
    )
    removed = pipeline.add(
        duplicate_clusters,
        "corpus",
        config=config.dedup,
        inputs={
            "part": parts,
            "signatures": keys,
            "validation": validation,
            "contaminated": _contaminated(pipeline, config, parts),
        },
    )
    removals = [removed, *_quality_removals(pipeline, config, parts, removed)]
    training = _shards(pipeline, config, "training", parts, tokenizer, *removals)
    held_out = _shards(pipeline, config, "validation", [validation], tokenizer)
    made = [step.artifact for key, step in pipeline.steps.items() if key not in others]
    report = pipeline.add(report_corpus, "corpus", config=config.report, inputs=report_inputs(made))
    return PreparedCorpus(
        tokenizer=tokenizer,
        training=training,
        validation=held_out,
        held_out=validation,
        report=report,
    )


def _contaminated(
    pipeline: Pipeline, config: PrepareConfig, parts: list[Artifact]
) -> list[Artifact]:
    """Look for text of evaluation sets, where there are any."""
    if not config.decontamination.sets:
        return []
    ngrams = pipeline.add(
        evaluation_ngrams,
        "sets",
        config=listed_sets(config.decontamination, store=pipeline.store),
        inputs={},
    )
    return [
        pipeline.add(
            find_contamination,
            item.name,
            config=config.decontamination,
            inputs={"part": item, "ngrams": ngrams},
        )
        for item in parts
    ]


def _quality_removals(
    pipeline: Pipeline, config: PrepareConfig, parts: list[Artifact], removed: Artifact
) -> list[Artifact]:
    """Add the stages of the quality model, if it is switched on."""
    quality = config.quality_model
    if quality.select == "none":
        return []
    model = pipeline.add(
        train_quality_model,
        "quality",
        config=labelled_documents(quality, data_seed=config.data.seed, store=pipeline.store),
        inputs={},
    )
    scores = [
        pipeline.add(
            score_quality, item.name, config=ScoreQuality(), inputs={"part": item, "model": model}
        )
        for item in parts
    ]
    chosen = pipeline.add(
        select_quality,
        "corpus",
        config=SelectQuality(quality_model=quality),
        inputs={"scores": scores, "removed": removed},
    )
    return [chosen]


def _shards(
    pipeline: Pipeline,
    config: PrepareConfig,
    split: Split,
    documents: list[Artifact],
    tokenizer: Artifact,
    *removed: Artifact,
) -> Artifact:
    tokens = [
        pipeline.add(
            tokenise,
            item.name,
            config=Tokenise(split=split),
            inputs={"documents": item, "tokenizer": tokenizer},
        )
        for item in documents
    ]
    return pipeline.add(
        write_shards,
        split,
        config=WriteShards(
            shards=config.shards,
            split=split,
            context_tokens=config.model.context_tokens,
            seed=config.data.seed,
        ),
        inputs={"tokens": tokens, "removed": removed},
    )


def prepare_run(pipeline: Pipeline, run: ResolvedRun[PrepareConfig]) -> PreparedCorpus:
    """Walk the DAG of a run."""
    return prepare_corpus(pipeline, run.config)


def run_prepare(session: Session, run: ResolvedRun[PrepareConfig]) -> None:
    """Make the corpus of a preset: raw shards in, token shards and a tokenizer out."""
    corpus = prepare_run(session.pipeline, run)
    report_funnel(report_data(session.tracking, session.manifests()))
    report_page(session.tracking, corpus.report, session.store)


PREPARE = ConfiguredFlow(PrepareConfig, dag=prepare_run, body=run_prepare)
prepare = PREPARE.prefect_flow()

if COMMAND:
    run_command(PREPARE, COMMAND)
