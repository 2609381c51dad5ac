"""Smoke run of a few steps before a long training: checkpoint, validation, samples and resume.

A training of its own in a directory that is removed, resumed once from its checkpoint. It leaves no
trace in the training that follows.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from model.config.outputs import TrainModelOutputs
from model.config.runs import TrainRun
from model.config.train import TrackingConfig, TrainConfig, batch_tokens_of
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import compute_dtype, device_name, peak_flops_per_second, share_threads
from model.text.tokenizer import Tokenizer
from model.train.checkpoint import CHECKPOINT_PATTERN
from model.train.events import Tracker
from model.train.snapshot import RandomState

logger = logging.getLogger(__name__)

SMOKE_DIRECTORY = "smoke_run"
SMOKE_STEPS = 2
LONG_SECONDS = 3600.0
USED_SHARE = 0.4  # of the peak: 0.42 is reported for this shape on one H200 (modded-nanogpt)
MATRIX_WIDTH = 512
NUM_PRODUCTS = 5


def smoke_run(
    run: TrainRun,
    *,
    directory: Path,
    distributed: DistributedContext,
    attempt: Callable[[TrainRun, Path], object],
) -> None:
    """Run the smoke run if the training will be long and is not resumed.

    Args:
        attempt: trains a run in a directory to its end; its errors propagate.
    """
    place = directory / SMOKE_DIRECTORY
    if distributed.is_main:
        shutil.rmtree(place, ignore_errors=True)  # of a killed attempt
    wanted = _is_wanted(run, directory, distributed) if distributed.is_main else None
    if not distributed.from_main(wanted):
        return
    before, started = RandomState.take(), time.perf_counter()
    place.mkdir(exist_ok=True)
    tried = _shortened(run)
    try:
        for _ in range(2):  # the second time it resumes, from the checkpoint of the last step
            attempt(tried, place)
    except Exception as error:
        error.add_note(f"in the smoke run before {run.train.steps} steps of training")
        raise
    finally:
        if distributed.is_main:
            shutil.rmtree(place, ignore_errors=True)
        gc.collect()
        if distributed.device.type == "cuda":
            torch.cuda.empty_cache()
    before.restore()
    if distributed.is_main:
        seconds = time.perf_counter() - started
        logger.info("smoke run: %d steps passed in %.1f seconds", SMOKE_STEPS, seconds)
        Tracker(TrainModelOutputs(directory).events, tracking=TrackingConfig()).record(
            "smoke_run", step=0, seconds=round(seconds, 3)
        )


def _is_wanted(run: TrainRun, directory: Path, distributed: DistributedContext) -> int:
    checkpoints = TrainModelOutputs(directory).checkpoints
    if run.train.smoke_run == "never" or any(checkpoints.glob(CHECKPOINT_PATTERN)):
        return 0
    if run.train.smoke_run == "always":
        return 1
    seconds = planned_seconds(run, distributed)
    logger.info("training is planned for about %.2g hours", seconds / 3600)
    return int(seconds > LONG_SECONDS)


def planned_seconds(run: TrainRun, distributed: DistributedContext) -> float:
    """Estimate the duration of a training from its FLOPs and the speed of the hardware.

    A GPU with a known peak is assumed to use a typical share of it; other hardware is measured with
    a few matrix products.
    """
    vocab_size = Tokenizer.load(run.path(run.tokenizer)).vocab_size
    num_tokens = (run.train.steps or 0) * batch_tokens_of(run.train)
    flops = run.model.architecture(vocab_size).flops_per_token() * num_tokens
    peak = peak_flops_per_second(device_name(distributed.device))
    speed = USED_SHARE * peak if peak else _measured_flops_per_second(run.train, distributed)
    return flops / (speed * distributed.size)


def _measured_flops_per_second(train: TrainConfig, distributed: DistributedContext) -> float:
    share_threads(distributed)
    dtype = compute_dtype(train.precision, distributed.device)
    matrix = torch.ones(MATRIX_WIDTH, MATRIX_WIDTH, dtype=dtype, device=distributed.device)
    result = matrix @ matrix  # the first one warms up
    started = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        result = matrix @ matrix
    result[0, 0].item()  # waits for a device
    return NUM_PRODUCTS * 2 * MATRIX_WIDTH**3 / (time.perf_counter() - started)


def _shortened(run: TrainRun) -> TrainRun:
    """Return the same run with a few steps and no tracking."""
    changes = {
        "steps": SMOKE_STEPS,
        "validate_every_steps": SMOKE_STEPS,
        "checkpoint_every_steps": SMOKE_STEPS,
        "log_every_steps": 1,
        "validation_tokens": min(
            run.train.validation_tokens, run.train.micro_batch_rows * run.model.context_tokens
        ),
        "smoke_run": "never",
        "extend": "never",
    }
    train = run.train.model_copy(update=changes)
    return run.model_copy(update={"train": train, "tracking": TrackingConfig()})
