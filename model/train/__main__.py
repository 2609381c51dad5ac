"""Train a model: the process behind the train_model stage.

    python -m model.train --config <path>
    python -m torch.distributed.run --standalone --nproc-per-node=N -m model.train --config <path>

The config is a ``TrainRun``. After a kill or a signal, a second run resumes from the newest
checkpoint. Exit status: 0 complete, 75 interrupted, else failed (torchrun turns all but 0 into 1);
details are in ``result.json`` beside the config.

With torchrun's ``--max-restarts`` all processes restart when one died. While restarts are left, an
interrupted attempt, and the attempt after a lasting failure, exit with 0 so that torchrun stops.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from model.config.outputs import TrainModelOutputs
from model.config.runs import (
    CONFIG_NAME,
    EXIT_INTERRUPTED,
    RESULT_NAME,
    ErrorReport,
    TrainResult,
    TrainRun,
    result_name,
    settled_result,
)
from model.core.processes import end_with_parent
from model.core.store import ArtifactStore, Work
from model.runtime.child_process import parse_config_path
from model.runtime.distributed import DistributedContext, StopRequest
from model.train.trainer import TrainingInterruptedError, train

logger = logging.getLogger(__name__)

LOGS = {*TrainModelOutputs.LOGS, CONFIG_NAME, RESULT_NAME}


@record
def main(arguments: list[str] | None = None) -> None:
    """Train from a config file, and write ``result.json`` beside it."""
    path = parse_config_path(arguments, description=__doc__)
    distributed = DistributedContext.from_environment()
    logging.basicConfig(
        level=logging.INFO if distributed.is_main else logging.WARNING,
        format=f"%(asctime)s %(levelname)s [{distributed.rank}] %(message)s",
    )
    if distributed.launch and (settled := settled_result(path.parent, launch=distributed.launch)):
        logger.warning("not restarted: the previous attempt is %s", settled.state)
        distributed.leave(0)
    (path.parent / result_name(distributed.rank)).unlink(missing_ok=True)  # of an earlier attempt
    result = TrainResult(state="failed")
    with StopRequest() as stop:
        try:
            result = make(TrainRun.load(path), distributed, stop)
        except TrainingInterruptedError as interruption:
            result = TrainResult(state="interrupted", step=interruption.step)
        except Exception as error:
            result = TrainResult(state="failed", error=ErrorReport.of(error))
            raise
        finally:
            _report(result, path.parent, distributed)
    # Other ranks exit with 0: torchrun kills all after the first failure.
    is_interrupted = distributed.is_main and result.state == "interrupted"
    is_again = distributed.num_restarts_left > 0
    distributed.leave(EXIT_INTERRUPTED if is_interrupted and not is_again else 0)


def _report(result: TrainResult, directory: Path, distributed: DistributedContext) -> None:
    """Write rank 0's result, and that of another rank with a user-fixable error."""
    is_wanted = distributed.is_main or (result.state == "failed" and result.is_settled)
    if is_wanted and directory.is_dir():  # a finished work directory was renamed
        named = result.model_copy(update={"launch": distributed.launch})
        named.write(directory, rank=distributed.rank)


def make(run: TrainRun, distributed: DistributedContext, stop: StopRequest) -> TrainResult:
    """Make the artifact of a run: rank 0 holds the store's lock, the others train with it."""
    if run.when_parent_dies == "die":
        end_with_parent()
    distributed.meet()
    store = ArtifactStore(Path(run.data_root))
    artifact = run.derivation.artifact
    if not distributed.is_main:
        if distributed.await_decision() == "train":
            train(run, directory=store.work_path(artifact), distributed=distributed, stop=stop)
        return TrainResult(state="complete", artifact=artifact)

    has_trained = False

    def body(work: Work) -> None:
        nonlocal has_trained
        has_trained = True
        work.logs |= LOGS
        work.mlflow_run_id = run.tracking.run_id
        distributed.announce("train")
        summary = train(run, directory=work.path, distributed=distributed, stop=stop)
        assert summary, "rank 0 sums up"
        TrainModelOutputs.record(work, summary.counts, summary.facts)
        TrainResult.complete(artifact, summary.counts, summary.facts).write(work.path)

    manifest = store.build(run.derivation, body, resume=True)
    if not has_trained:
        distributed.announce("leave")
    return TrainResult.complete(
        artifact, TrainModelOutputs.counts_of(manifest), TrainModelOutputs.facts_of(manifest)
    )


if __name__ == "__main__":
    main()
