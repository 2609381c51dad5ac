"""Stacks of parameters of one shape, with gradients and optimizer state, each as one tensor.

An optimizer treats a stack as a single parameter, so that a step takes few, large operations.
Whether a step applies is a number on the device: new values are always computed, then selected
element by element. So nothing synchronises, and a skipped step leaves every bit unchanged, whatever
the gradients hold.
"""

# pyright: reportPrivateImportUsage=false
# torch names its operations over lists of tensors with an underscore only.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterStack:
    """Parameters of one shape that have gradients, and the state of each."""

    parameters: list[nn.Parameter]
    states: list[dict[str, Any]]
    group: dict[str, Any]  # the optimizer's parameter group they belong to
    applies: Bool[Tensor, ""]  # whether the step is applied

    def values(self) -> Float[Tensor, "N ..."]:
        """Return a copy of the parameters."""
        return torch.stack([item.data for item in self.parameters])

    def gradients(self) -> Float[Tensor, "N ..."]:
        """Return a copy of the gradients."""
        return torch.stack([item.grad for item in self.parameters if item.grad is not None])

    def state(self, name: str) -> Float[Tensor, "N ..."]:
        """Return a copy of one part of the state."""
        return torch.stack([state[name] for state in self.states])

    def set_values(self, values: Float[Tensor, "N ..."]) -> None:
        """Set the parameters, if the step applies."""
        self._put(list(self.parameters), values)

    def set_state(self, name: str, values: Float[Tensor, "N ..."]) -> None:
        """Set one part of the state, if the step applies."""
        self._put([state[name] for state in self.states], values)

    def _put(self, targets: list[Tensor], values: Float[Tensor, "N ..."]) -> None:
        chosen = torch.where(self.applies, values, torch.stack(targets))
        torch._foreach_copy_(targets, list(chosen.unbind()))


def stacks_of(
    group: dict[str, Any], states: Mapping[Any, dict[str, Any]], applies: Bool[Tensor, ""]
) -> Iterator[ParameterStack]:
    """Yield the parameters of a group that have gradients, stacked by shape."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        if parameter.grad is not None:
            by_shape.setdefault(parameter.shape, []).append(parameter)
    for parameters in by_shape.values():
        yield ParameterStack(parameters, [states[item] for item in parameters], group, applies)
