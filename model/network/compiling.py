"""Compiling what training repeats: one block for all layers, and the scores of the loss.

All blocks share one compiled function, so that compiling costs what one block costs whatever the
depth. The embedding, the last norm and the matrix products of the head stay as they are, and so
does everything without gradients: validation and generation come in many shapes.
``model.train.trainer`` is the caller; ``model.network.gpt`` runs what is set here.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor

from model.config.train import CompileMode
from model.network.attention import Scope
from model.network.gpt import GPT, Block
from model.network.losses import next_token_loss, score_logits

logger = logging.getLogger(__name__)

# 8 % less CPU time per step at 17M parameters (1,115 against 1,028 tokens per CPU second) against
# 105 s of compiling on a crowded EPYC, 2026-11-22: won back after 3e14 operations at 260 GFLOP/s.
MIN_CPU_FLOPS = 5e14
EAGER = "eager"


def compile_model(
    model: GPT,
    mode: CompileMode,
    device: torch.device,
    *,
    rows: int,
    dtype: torch.dtype = torch.float32,
    by_documents: bool = False,
    planned_flops: float = 0.0,
) -> str:
    """Make training steps of a model run compiled where that pays, and say how they run.

    One micro-batch runs forward and backward here, so that whatever a compiler lacks shows now.
    Then the log says what failed and all stays eager. The model must have no gradients yet.

    Args:
        mode: ``auto`` compiles on CUDA, and on a CPU from ``MIN_CPU_FLOPS`` on.
        rows: of a micro-batch.
        dtype: of the matrix products, as autocast gives it.
        by_documents: whether attention is by documents.
        planned_flops: of this process from the first step to the horizon. Not what is left of it:
            a resumed run has to do as the interrupted one did.

    Returns:
        ``compiled``, or ``eager`` with the reason.
    """
    model.model.training_block, model.score_chunk = None, None
    if mode == "off":
        return f"{EAGER}: train.compile=off"
    if mode == "auto" and device.type != "cuda" and planned_flops < MIN_CPU_FLOPS:
        return f"{EAGER}: {planned_flops:.1e} operations do not win back the time of compiling"
    started = time.perf_counter()
    try:
        model.model.training_block = torch.compile(_run_block, dynamic=False)
        model.score_chunk = torch.compile(score_logits, dynamic=False)
        _try_out(model, device, rows=rows, dtype=dtype, by_documents=by_documents)
    except torch.OutOfMemoryError:  # no fault of the compiler's: the first step will meet it
        return "compiled, not tried out: out of memory"
    except Exception as error:  # compilers fail in many ways, and training goes on
        model.model.training_block, model.score_chunk = None, None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning("compiling failed, training goes on uncompiled: %s", reason)
        logger.debug("compiling failed", exc_info=error)
        return f"{EAGER}: compiling failed: {reason}"
    return f"compiled in {time.perf_counter() - started:.0f} s"


def _run_block(block: Block, x: Tensor, cosine: Tensor, sine: Tensor, scope: Scope) -> Tensor:
    return block(x, cosine, sine, scope)


def _try_out(
    model: GPT, device: torch.device, *, rows: int, dtype: torch.dtype, by_documents: bool
) -> None:
    """Take one loss and its gradient as training will, and leave no gradient behind."""
    shape = (rows, model.architecture.context_tokens + 1)
    ids = torch.zeros(shape, dtype=torch.int64, device=device)
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    is_mixed = dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype if is_mixed else None, enabled=is_mixed):
        loss = next_token_loss(model, ids, mask, ids if by_documents else None)
    loss.backward()
    for parameter in model.parameters():
        parameter.grad = None
