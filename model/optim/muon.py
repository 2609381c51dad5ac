"""Muon: momentum with an orthogonalised update for matrices.

A step takes all matrices of one shape as a stack. Every process holds all momentum, so that any can
write a checkpoint; the orthogonalisation, nearly all of the work, is sharded: each process takes a
slice of the stack, and the results are gathered. Called by ``model.optim.optimizer``.

Source: Keller Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from model.optim.parameter_stacks import ParameterStack
from model.runtime.distributed import DistributedContext

# Newton–Schulz iteration: singular value s -> a s + b s^3 + c s^5. Source: as above.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
SMALLEST_NORM = 1e-7  # a gradient of zero stays zero


def orthogonalise(
    matrices: Float[Tensor, "N R C"], *, dtype: torch.dtype
) -> Float[Tensor, "N R C"]:
    """Return about U V^T of each matrix U S V^T: all singular values are close to one.

    Args:
        dtype: of the matrix products and of the result.
    """
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    x = (matrices / norms.clamp(min=SMALLEST_NORM)).to(dtype)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:  # the Gram matrix of the shorter side is smaller
        x = x.mT.contiguous()
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


def momentum_at(
    num_steps: Float[Tensor, " N"], *, start: float, final: float, warmup_steps: int
) -> Float[Tensor, " N"]:
    """Return the momentum of a step, counted from zero: linear from start to final, then flat."""
    progress = (num_steps / max(1, warmup_steps)).clamp(max=1.0)
    return start + (final - start) * progress


@dataclass(frozen=True)
class MuonStep:
    """A step of one stack in progress: its updates may still be gathered."""

    stack: ParameterStack
    directions: Float[Tensor, "M R C"]  # at least as many as the stack has matrices
    work: dist.Work | None

    @classmethod
    def begin(
        cls, stack: ParameterStack, *, dtype: torch.dtype, distributed: DistributedContext
    ) -> MuonStep:
        """Update the momentum, and start to gather this process's share of the updates."""
        for parameter, state in zip(stack.parameters, stack.states, strict=True):
            if not state:
                state["num_steps"] = parameter.new_zeros(())
                state["momentum"] = torch.zeros_like(parameter)
        group, gradients, num_steps = stack.group, stack.gradients(), stack.state("num_steps")
        momentum = momentum_at(
            num_steps,
            start=group["start_momentum"],
            final=group["momentum"],
            warmup_steps=group["momentum_warmup_steps"],
        ).view(-1, 1, 1)
        buffer = gradients.lerp(stack.state("momentum"), momentum)
        ahead = gradients.lerp_(buffer, momentum)  # Nesterov momentum
        stack.set_state("num_steps", num_steps + 1)
        stack.set_state("momentum", buffer)
        if distributed.size == 1:
            return cls(stack, orthogonalise(ahead, dtype=dtype), None)
        return cls(stack, *_orthogonalise_sharded(ahead, dtype=dtype, distributed=distributed))

    def finish(self) -> None:
        """Wait for the updates and apply them, scaled by the shape of the matrices."""
        if self.work is not None:
            self.work.wait()
        stack, rate = self.stack, self.stack.group["lr"]
        directions = self.directions[: len(stack.parameters)]
        num_rows, num_columns = directions.shape[1:]
        size = rate * max(1.0, num_rows / num_columns) ** 0.5
        values = stack.values().mul_(1.0 - rate * stack.group["weight_decay"])
        stack.set_values(values.add_(directions, alpha=-size))


def _orthogonalise_sharded(
    matrices: Float[Tensor, "N R C"], *, dtype: torch.dtype, distributed: DistributedContext
) -> tuple[Float[Tensor, "M R C"], dist.Work | None]:
    """Orthogonalise this process's slice and start to gather all; M is a multiple of processes."""
    per_process = -(-len(matrices) // distributed.size)
    own = matrices[distributed.rank * per_process : (distributed.rank + 1) * per_process]
    share = matrices.new_zeros((per_process, *matrices.shape[1:]), dtype=dtype)
    if len(own):
        share[: len(own)] = orthogonalise(own, dtype=dtype)
    gathered = share.new_empty((distributed.size * per_process, *matrices.shape[1:]))
    return gathered, dist.all_gather_into_tensor(gathered, share, async_op=True)
