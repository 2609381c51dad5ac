"""Flow publish: the clean text of a corpus as a data set folder with its card.

prefect deployment run publish/sample
python -m flows.publish --preset sample --set card.name="Clean stories"
"""

from __future__ import annotations

from flows.configured import Session, configured_flow
from flows.prepare import prepare_corpus
from flows.settings.cli import run_command
from flows.settings.presets import PublishConfig
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.reporting.run import report_data, report_funnel, report_page, report_published
from tasks.stages.publish_corpus import DATASET, PublishCorpus, publish_corpus, publish_inputs


def publish_dataset(pipeline: Pipeline, config: PublishConfig) -> tuple[Artifact, Artifact]:
    """Walk the DAG from raw shards to the report and the published corpus."""
    corpus = prepare_corpus(pipeline, config)
    published = pipeline.add(
        publish_corpus,
        DATASET,
        config=PublishCorpus(card=config.card),
        inputs=publish_inputs(step.artifact for step in pipeline.steps.values()),
    )
    return corpus.report, published


@configured_flow(PublishConfig, dag=publish_dataset)
def publish(session: Session, config: PublishConfig) -> None:
    """Make the corpus of a preset and write its clean text once, ready to be shared."""
    report, published = publish_dataset(session.pipeline, config)
    report_funnel(report_data(session.tracking, session.manifests()))
    report_page(session.tracking, report, session.store)
    report_published(session.tracking, published, session.store)


if __name__ == "__main__":
    run_command(publish, PublishConfig, publish_dataset)
