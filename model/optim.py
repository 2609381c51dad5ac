"""The optimizer, its learning rate and its gradient clipping.

``learning_rate`` is a pure function of the step, so that resuming needs no scheduler state.
"""

# pyright: reportPrivateImportUsage=false
# torch names its operations over lists of tensors with an underscore only.

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.errors import ConfigError
from model.gpt import GPT
from model.train_config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of an optimizer step, counted from zero.

    Linear warmup that reaches the peak at step ``warmup_steps - 1``, flat, then linear decay over
    the last ``decay_frac`` of the horizon, aimed at the final rate one step after the last; where
    warmup and decay overlap, the lower rate wins. No step has rate zero.

    Raises:
        ConfigError: the horizon of ``config`` is not given in steps.
    """
    if config.steps is None:
        raise ConfigError(
            "the learning rate needs a horizon in steps",
            expected="train.steps",
            found=f"train.tokens={config.tokens}",
            fix="resolve the config with with_horizon_in_steps() first",
        )
    warmup = (step + 1) / config.warmup_steps if step < config.warmup_steps else 1.0
    decay_steps = config.decay_frac * config.steps
    left = max(0, config.steps - step)
    progress = 1.0 if left >= decay_steps else left / decay_steps
    final = config.final_learning_rate_frac
    return config.learning_rate * min(warmup, final + (1.0 - final) * progress)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients down together to a global norm of ``max_norm``; return the norm before.

    A non-finite norm is returned as it is, with the gradients spoilt: do not step on them.
    """
    gradients = [item.grad for item in parameters if item.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def build_optimizer(model: GPT, config: TrainConfig) -> AdamW:
    """Return AdamW over a model's parameters.

    Weight decay applies to block matrices and to an untied head. The embedding table, tied or not,
    and the norms are left alone. Source: OLMo-core's model ladder (all but embeddings decay).
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim > 1 and not name.endswith("embed_tokens.weight")
        (decayed if is_matrix else kept).append(parameter)
    return AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        learning_rate=config.learning_rate,
        betas=(config.beta1, config.beta2),
        epsilon=config.epsilon,
    )


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay, over whole lists of tensors at once.

    Source: arXiv 1711.05101, algorithm 2, with decay scaled by the learning rate as torch does.
    State per parameter: ``num_steps``, ``mean`` and ``mean_square``, in the parameter's type.

    Args:
        parameters: parameters, or groups that may each set ``weight_decay``.
        learning_rate: the ``lr`` of every group until someone sets another.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-10,
        weight_decay: float = 0.1,
    ) -> None:
        defaults = {
            "lr": learning_rate,
            "betas": betas,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
        }
        super().__init__(parameters, defaults)

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
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [item for item in group["params"] if item.grad is not None]
        if not parameters:
            return
        gradients = [item.grad for item in parameters]
        states = [self._state_of(item) for item in parameters]
        for state in states:
            state["num_steps"] += 1
        means = [state["mean"] for state in states]
        squares = [state["mean_square"] for state in states]
        beta1, beta2 = group["betas"]
        rate = group["lr"]

        torch._foreach_mul_(parameters, 1.0 - rate * group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1.0 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - beta2)

        steps = [state["num_steps"] for state in states]
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [math.sqrt(1.0 - beta2**step) for step in steps])
        torch._foreach_add_(denominators, group["epsilon"])
        sizes = [-rate / (1.0 - beta1**step) for step in steps]
        torch._foreach_addcdiv_(parameters, means, denominators, sizes)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["num_steps"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["mean_square"] = torch.zeros_like(parameter)
        return state
