"""Compilation of the training step: one block for all layers, and the chunk loss.

All blocks share one compiled function, so that compile time does not grow with depth. Embedding,
final norm and the head's matrix products stay eager, and so does everything without gradients:
validation and generation have many shapes. Called by ``model.train.trainer``;
``model.network.gpt`` runs the compiled functions.
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
# 105 s of compiling on a crowded EPYC, 2026-11-22: amortised after 3e14 operations at 260 GFLOP/s.
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
    """Compile the training step of a model where that pays, and return how it runs.

    One micro-batch runs forward and backward, so that compiler errors show now; then they are
    logged and everything stays eager. The model must have no gradients yet.

    Args:
        mode: ``auto`` compiles on CUDA, and on a CPU from ``MIN_CPU_FLOPS`` on.
        rows: of a micro-batch.
        dtype: of the matrix products, as autocast gives it.
        by_documents: whether attention stays within documents.
        planned_flops: of this process from the first step to the horizon, also when resumed: a
            resumed run must decide like the interrupted one.

    Returns:
        ``compiled``, or ``eager`` with the reason.
    """
    model.model.training_block, model.score_chunk = None, None
    if mode == "off":
        return f"{EAGER}: train.compile=off"
    if mode == "auto" and device.type != "cuda" and planned_flops < MIN_CPU_FLOPS:
        return f"{EAGER}: {planned_flops:.1e} operations do not amortise compilation"
    started = time.perf_counter()
    try:
        model.model.training_block = torch.compile(_run_block, dynamic=False)
        model.score_chunk = torch.compile(score_logits, dynamic=False)
        _try_out(model, device, rows=rows, dtype=dtype, by_documents=by_documents)
    except torch.OutOfMemoryError:  # not a compiler error: the first step will meet it
        return "compiled, not tried out: out of memory"
    except Exception as error:  # compilers fail in many ways; training continues
        model.model.training_block, model.score_chunk = None, None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning("compiling failed, training continues uncompiled: %s", reason)
        logger.debug("compiling failed", exc_info=error)
        return f"{EAGER}: compiling failed: {reason}"
    return f"compiled in {time.perf_counter() - started:.0f} s"


def _run_block(block: Block, x: Tensor, cosine: Tensor, sine: Tensor, scope: Scope) -> Tensor:
    return block(x, cosine, sine, scope)


def _try_out(
    model: GPT, device: torch.device, *, rows: int, dtype: torch.dtype, by_documents: bool
) -> None:
    """Compute one loss and its gradient as in training, and drop the gradient."""
    shape = (rows, model.architecture.context_tokens + 1)
    ids = torch.zeros(shape, dtype=torch.int64, device=device)
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    is_mixed = dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype if is_mixed else None, enabled=is_mixed):
        loss = next_token_loss(model, ids, mask, ids if by_documents else None)
    loss.backward()
    for parameter in model.parameters():
        parameter.grad = None
