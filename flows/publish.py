"""Flow publish: the clean text of a corpus as a data set folder with its card.

prefect deployment run publish/sample
python -m flows.publish --preset sample --set card.name="Clean stories"
"""

from __future__ import annotations

from flows.settings.cli import read_command
from flows.settings.config import PublishConfig

COMMAND = read_command(PublishConfig, __name__, __doc__)  # before what is slow to import

from flows.configured import ConfiguredFlow, Session, run_command
from flows.prepare import prepare_corpus
from flows.settings.resolve import ResolvedRun
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.reporting.run import report_data, report_funnel, report_page, report_published
from tasks.stages.publish_corpus import DATASET, PublishCorpus, publish_corpus, publish_inputs


def publish_dataset(
    pipeline: Pipeline, run: ResolvedRun[PublishConfig]
) -> tuple[Artifact, Artifact]:
    """Walk the DAG from raw shards to the report and the published corpus."""
    corpus = prepare_corpus(pipeline, run.config)
    published = pipeline.add(
        publish_corpus,
        DATASET,
        config=PublishCorpus(card=run.config.card),
        inputs=publish_inputs(step.artifact for step in pipeline.steps.values()),
    )
    return corpus.report, published


def run_publish(session: Session, run: ResolvedRun[PublishConfig]) -> None:
    """Make the corpus of a preset and write its clean text once, ready to be shared."""
    report, published = publish_dataset(session.pipeline, run)
    report_funnel(report_data(session.tracking, session.manifests()))
    report_page(session.tracking, report, session.store)
    report_published(session.tracking, published, session.store)


PUBLISH = ConfiguredFlow(PublishConfig, dag=publish_dataset, body=run_publish)
publish = PUBLISH.prefect_flow()

if COMMAND:
    run_command(PUBLISH, COMMAND)
