"""The optimizer of a whole model, its learning rate and its gradient clipping.

Muon updates the block matrices, AdamW the embedding, the head and the norms. The learning rate is a
pure function of the step, so that resuming needs no scheduler state.
"""

# pyright: reportPrivateImportUsage=false
# torch names its operations over lists of tensors with an underscore only.

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.config.train import Hyperparameters, TrainConfig
from model.network.gpt import GPT, TIED_EMBEDDING_STD
from model.optim.muon import MuonStep
from model.optim.parameter_stacks import ParameterStack, stacks_of
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import compute_dtype

# Stored names of the parameter groups, in their order: input projections of the residual stream,
# output projections, embedding, untied head, norm weights.
PARTS = ("matrix", "writer", "embedding", "head", "norm")


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every parameter group to this share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_learning_rate"]


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients down together to a global norm of ``max_norm``; return the norm before.

    With a non-finite norm the gradients are invalid: do not step on them.
    """
    gradients = [item.grad for item in parameters if item.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def build_optimizer(model: GPT, config: TrainConfig, distributed: DistributedContext) -> Optimizer:
    """Return the optimizer of a model's parameters, with Muon's products in the run's precision.

    Raises:
        ConfigError: a hyperparameter is unset.
    """
    groups = _groups(model, config.hyperparameters(), config)
    return Optimizer(
        groups, distributed=distributed, dtype=compute_dtype(config.precision, distributed.device)
    )


def _groups(model: GPT, settings: Hyperparameters, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the parameter groups; a tied embedding has no head group.

    A tied embedding starts the residual stream at a small scale. Muon's steps do not depend on the
    size of gradients, so the rate of output projections is scaled likewise, or their outputs would
    dominate the stream.
    """
    parts: dict[str, list[nn.Parameter]] = {name: [] for name in PARTS}
    for name, parameter in model.named_parameters():
        parts[_part(name, parameter)].append(parameter)
    is_muon = config.optimizer == "muon"
    stream_scale = TIED_EMBEDDING_STD if is_muon and model.architecture.tied else 1.0
    adamw = {"betas": (settings.beta1, settings.beta2), "epsilon": config.epsilon}
    rates = {
        "matrix": (settings.learning_rate, settings.weight_decay),
        "writer": (settings.learning_rate * stream_scale, settings.weight_decay / stream_scale),
        "embedding": (settings.embedding_learning_rate, settings.embedding_weight_decay),
        "head": (settings.head_learning_rate, settings.head_weight_decay),
        "norm": (settings.norm_learning_rate, 0.0),
    }
    muon = {
        "momentum": config.momentum,
        "start_momentum": config.start_momentum,
        "momentum_warmup_steps": config.momentum_warmup_steps,
    }
    return [
        {"params": parameters, "part": part, "peak_learning_rate": rate, "weight_decay": decay}
        | (muon if part in ("matrix", "writer") and is_muon else adamw)
        for part, parameters in parts.items()
        for rate, decay in [rates[part]]
        if parameters
    ]


def _part(name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim == 1:
        return "norm"
    if name.endswith("embed_tokens.weight"):
        return "embedding"
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return "writer"
    return "head" if name.endswith("lm_head.weight") else "matrix"


class Optimizer(torch.optim.Optimizer):
    """Muon or AdamW for each group of parameters, as one optimizer with one state.

    A group with ``momentum`` uses Muon, one with ``betas`` AdamW. The state is the same in all
    processes. Parameters without a gradient are skipped.

    Args:
        groups: each with ``params``, ``peak_learning_rate``, ``weight_decay`` and the settings of
            its algorithm, as ``build_optimizer`` makes them.
        distributed: the processes that share Muon's work.
        dtype: of Muon's matrix products.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        distributed: DistributedContext | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.distributed, self.dtype = distributed or DistributedContext(), dtype
        super().__init__(groups, defaults={})
        set_learning_rate(self, 1.0)

    def learning_rate(self, part: str) -> float:
        """Return the present learning rate of one of ``PARTS``."""
        return next(group["lr"] for group in self.param_groups if group["part"] == part)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update(torch.ones((), device=self.distributed.device))
        return loss

    @torch.no_grad()
    def update(self, factor: Float[Tensor, ""]) -> None:
        """Update every parameter that has a gradient, if ``factor`` is 1; do nothing if it is 0.

        Does not synchronise with the device. Muon's updates are gathered while AdamW computes.
        """
        applies = factor > 0
        stacks = [
            stack for group in self.param_groups for stack in stacks_of(group, self.state, applies)
        ]
        begun = [
            MuonStep.begin(stack, dtype=self.dtype, distributed=self.distributed)
            for stack in stacks
            if "momentum" in stack.group
        ]
        for stack in stacks:
            if "betas" in stack.group:
                adamw_step(stack)
        for step in begun:
            step.finish()


def adamw_step(stack: ParameterStack) -> None:
    """Take one AdamW step of one stack.

    Source: arXiv 1711.05101, algorithm 2, with decay scaled by the learning rate as torch does.
    State per parameter: ``num_steps``, ``mean`` and ``mean_square``, in the parameter's type.
    """
    for parameter, state in zip(stack.parameters, stack.states, strict=True):
        if not state:
            state["num_steps"] = parameter.new_zeros(())
            state["mean"] = torch.zeros_like(parameter)
            state["mean_square"] = torch.zeros_like(parameter)
    group, gradients = stack.group, stack.gradients()
    rate, (beta1, beta2) = group["lr"], group["betas"]
    num_steps = stack.state("num_steps") + 1
    mean = stack.state("mean").lerp_(gradients, 1.0 - beta1)
    square = stack.state("mean_square").mul_(beta2)
    square.addcmul_(gradients, gradients, value=1.0 - beta2)

    shape = (-1, *(1 for _ in gradients.shape[1:]))
    bias1, bias2 = ((1.0 - beta**num_steps).view(shape) for beta in (beta1, beta2))
    denominators = (square / bias2).sqrt_().add_(group["epsilon"])
    values = stack.values().mul_(1.0 - rate * group["weight_decay"])
    values.addcdiv_(mean / bias1, denominators, value=-rate)

    stack.set_state("num_steps", num_steps)
    stack.set_state("mean", mean)
    stack.set_state("mean_square", square)
    stack.set_values(values)
