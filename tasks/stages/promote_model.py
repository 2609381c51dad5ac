"""Task promote_model: promotion of a registered version to champion, or the way back.

Not a stage: it makes no artifact. Asked for by a person (flow promote); what a pipeline does at its
end is ``tasks.stages.promote_candidate``.
"""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.tracking.mlflow_store import open_client
from tasks.tracking.promotion import Promotion, promote, roll_back

logger = logging.getLogger(__name__)


@task(name="promote_model", persist_result=False, cache_policy=NO_CACHE, log_prints=False)
def promote_model(
    name: str, *, version: int | None = None, force: bool = False, back: bool = False
) -> Promotion:
    """Make a version of a registered model its champion, or restore the champion before.

    Args:
        version: unset = the candidate.
        force: whatever its scores.
        back: restore the champion before; version and force do not matter then.

    Raises:
        PromotionError: the version is worse than the champion, or cannot be compared with it.
        RegistryError: there is no such model or version.
    """
    client = open_client()
    done = roll_back(client, name) if back else promote(client, name, version=version, force=force)
    logger.info("%s", done.text())
    return done
