"""AdamW: Adam with decoupled weight decay. Called by ``model.optim.optimizer``.

Source: arXiv 1711.05101, algorithm 2, with decay scaled by the learning rate as torch does.
"""

from __future__ import annotations

import torch

from model.optim.parameter_stacks import ParameterStack


def adamw_step(stack: ParameterStack) -> None:
    """Take one step of one stack.

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
