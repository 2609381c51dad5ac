"""One side of ``bench_training`` in a process of its own: measures what its standard input asks.

    python -m benchmarks.training_sides ours|qwen3|gpt2 17m|49m <threads>

Lines ``prepare R``, ``micro R``, ``update``, ``matmul`` and ``facts`` are each answered with one
line of JSON.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.config.defaults import with_defaults
from model.config.network import Architecture, ModelConfig
from model.config.train import TrainConfig
from model.network.compiling import compile_model
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.optim.optimizer import build_optimizer, clip_gradients
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import compute_dtype, keep_freed_memory

CONTEXT_TOKENS = 1024
CPU = torch.device("cpu")
SQUARE = 2048


def architecture_of(size: str) -> Architecture:
    """Return our shape of a size; 17m is 6 layers of width 384 and 16,384 tokens."""
    if size == "49m":
        return ModelConfig(size="49m").architecture(vocab_size=32_768)
    geometry = {"width": 384, "num_layers": 6, "num_heads": 6, "head_dim": 64, "mlp_width": 1024}
    constants = {"context_tokens": CONTEXT_TOKENS, "rope_theta": 1e4, "norm_epsilon": 1e-6}
    return Architecture.model_validate(geometry | constants | {"tied": True, "vocab_size": 16_384})


class Ours:
    """Our model, loss, compilation and optimizer."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype) -> None:
        keep_freed_memory()
        self.dtype = dtype
        self.model = GPT(architecture)
        self.model.init_weights(1)
        config = with_defaults(TrainConfig(steps=1000), architecture)
        self.optimizer = build_optimizer(self.model, config, DistributedContext())

    def prepare(self, rows: int) -> str:
        """Compile for micro-batches of some rows."""
        return compile_model(self.model, "on", CPU, rows=rows, dtype=self.dtype)

    def loss(self, ids: Tensor) -> Tensor:
        """Return the summed loss."""
        return next_token_loss(self.model, ids, torch.ones_like(ids, dtype=torch.bool))

    def update(self) -> None:
        """Clip and step."""
        clip_gradients(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()


class Peer:
    """A transformers model as its users train it."""

    def __init__(self, name: str, a: Architecture, dtype: torch.dtype) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

        torch.manual_seed(1)
        self.dtype = dtype
        if name == "qwen3":
            config = Qwen3Config(
                vocab_size=a.vocab_size,
                hidden_size=a.width,
                intermediate_size=a.mlp_width,
                num_hidden_layers=a.num_layers,
                num_attention_heads=a.num_heads,
                num_key_value_heads=a.num_heads,
                head_dim=a.head_dim,
                max_position_embeddings=a.context_tokens,
                tie_word_embeddings=a.tied,
                use_cache=False,
            )
            self.model: Any = Qwen3ForCausalLM(config)
        else:
            none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
            config = GPT2Config(
                vocab_size=a.vocab_size,
                n_embd=a.width,
                n_layer=a.num_layers,
                n_head=a.num_heads,
                n_positions=a.context_tokens,
                **none,
            )
            self.model = GPT2LMHeadModel(config)
        self.compiled = torch.compile(self.model, dynamic=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def prepare(self, _rows: int) -> str:
        """Compile with the first call."""
        return "torch.compile"

    def loss(self, ids: Tensor) -> Tensor:
        """Return the loss that the model's own class computes."""
        return self.compiled(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss

    def update(self) -> None:
        """Clip and step."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def micro_batch(side: Ours | Peer, rows: int, vocab_size: int) -> None:
    """Run one micro-batch forward and backward."""
    ids = torch.randint(0, vocab_size, (rows, CONTEXT_TOKENS + 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=side.dtype == torch.bfloat16):
        loss = side.loss(ids)
    (loss / (rows * CONTEXT_TOKENS)).backward()


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return wall-clock and CPU seconds of some work."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
    }


def matmul(a: Architecture, dtype: torch.dtype) -> dict[str, float]:
    """Time a large square product and one of the model's, MLP up, forward and backward."""
    x = torch.randn(SQUARE, SQUARE).to(dtype)
    tokens, up = torch.randn(2048, a.width).to(dtype), torch.randn(a.mlp_width, a.width).to(dtype)
    above = torch.randn(2048, a.mlp_width).to(dtype)

    def model_shaped() -> None:
        for _ in range(4):
            tokens @ up.T, above @ up, above.T @ tokens

    answer: dict[str, float] = {}
    works = {
        "square": (lambda: x @ x, 2 * SQUARE**3),
        "model": (model_shaped, 4 * 3 * 2 * 2048 * a.width * a.mlp_width),
    }
    for name, (work, flops) in works.items():
        work()
        times = [timed(work) for _ in range(5)]
        for clock in ("seconds", "cpu_seconds"):
            answer[f"{name}_{clock}"] = min(item[clock] for item in times)
        answer[f"{name}_flops"] = flops
    return answer


def main() -> None:
    """Answer lines until there are no more."""
    name, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    architecture, dtype = architecture_of(size), compute_dtype("auto", CPU)
    side = Ours(architecture, dtype) if name == "ours" else Peer(name, architecture, dtype)
    how = "eager"
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    for line in sys.stdin:
        word, *rest = line.split()
        answer: dict[str, Any] = {}
        work = functools.partial(micro_batch, side, *map(int, rest), architecture.vocab_size)
        if word == "prepare":
            side.model.zero_grad(set_to_none=True)
            how = side.prepare(int(rest[0]))
            work()
            work()
        elif word == "micro":
            answer = timed(work)
        elif word == "update":
            answer = timed(side.update)
        elif word == "matmul":
            answer = matmul(architecture, dtype)
        else:
            num_params = sum(parameter.numel() for parameter in side.model.parameters())
            answer = {"num_params": num_params, "how": how, "dtype": str(dtype)}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
