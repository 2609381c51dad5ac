"""Task promote_candidate: promotion of a pipeline's version to champion, if it is no worse.

Not a stage: it makes no artifact. A refusal is a result, shown with its numbers.
"""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from model.core.errors import PromotionError
from tasks.config.run import RegistryConfig
from tasks.stages.register_model import RegisteredModel
from tasks.tracking.mlflow_store import RunStore
from tasks.tracking.promotion import Promotion, promote
from tasks.tracking.run import TrackedPipeline

logger = logging.getLogger(__name__)

PROMOTION_TAG = "llm.promotion"


@task(name="promote_model", persist_result=False, cache_policy=NO_CACHE, log_prints=False)
def promote_candidate(
    tracked: TrackedPipeline,
    registered: RegisteredModel | State[RegisteredModel] | None,
    *,
    registry: RegistryConfig,
) -> Promotion | State[Promotion | None] | None:
    """Let a pipeline's version take over from the champion, if the gate lets it through.

    Args:
        registered: what register_model answered.

    Returns:
        What became of the alias; ``None`` in Prefect state ``Refused`` if nothing did.
    """
    if not isinstance(registered, RegisteredModel) or registry.promote == "never":
        return None
    name, version = registered.name, registered.version
    refusals: list[PromotionError] = []

    def attempt(runs: RunStore, _run_id: str) -> Promotion | None:
        try:
            return promote(runs.client, name, version=version)
        except PromotionError as error:
            refusals.append(error)
            return None

    done = tracked.attempt("promoting the model", attempt)
    if refusals:
        logger.warning("%s", refusals[0])
        tracked.record_tags({PROMOTION_TAG: f"refused: {refusals[0].found}"})
        return Completed(name="Refused", message=refusals[0].problem, data=None)
    if done:
        logger.info("%s", done.text())
        tracked.record_tags({PROMOTION_TAG: done.outcome})
    return done
