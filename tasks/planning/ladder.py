"""Trainings of a scaling ladder: sizes and horizons as configs, the next one included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import get_args

from model.config import defaults
from model.config.network import ModelConfig, ModelSize
from model.config.train import TrainConfig, batch_tokens_of, check_machines, rows_per_step
from model.core.errors import ConfigError
from tasks.config.run import SweepConfig


@dataclass(frozen=True)
class Rung:
    """One training of a ladder."""

    name: str
    model: ModelConfig
    train: TrainConfig


def rungs(
    sweep: SweepConfig, *, model: ModelConfig, train: TrainConfig, vocab_size: int
) -> list[Rung]:
    """Return the trainings of a sweep, the least compute first.

    Args:
        model: of all of them, but for its size.
        train: of all of them, but for its horizon.

    Raises:
        ConfigError: horizons and sizes differ in number, or two trainings are the same.
    """
    if sweep.tokens and len(sweep.tokens) != len(sweep.sizes):
        raise ConfigError(
            "every size of a ladder needs its horizon",
            expected=f"{len(sweep.sizes)} numbers of tokens, or none",
            found=f"sweep.tokens={list(sweep.tokens)} and sweep.sizes={list(sweep.sizes)}",
            where="sweep.sizes and sweep.tokens",
            fix="give one horizon per size (a size may come twice), or set sweep.tokens_per_param",
        )
    found = []
    for size, tokens in zip_longest(sweep.sizes, sweep.tokens):
        sized = model.model_copy(update={"size": size})
        wanted = tokens or round(sweep.tokens_per_param * num_matmul_params(sized, vocab_size))
        found.append(_rung(sized, train, tokens=wanted, vocab_size=vocab_size))
    _require_distinct(found)
    return sorted(found, key=lambda rung: num_flops(rung.model, num_tokens(rung), vocab_size))


def _rung(model: ModelConfig, train: TrainConfig, *, tokens: int, vocab_size: int) -> Rung:
    """Return one training: unset values filled, its horizon in whole steps."""
    given = train.model_copy(update=dict.fromkeys(TrainConfig.HORIZONS) | {"tokens": tokens})
    resolved = defaults.resolve(given, model, vocab_size)
    rows_per_step(resolved, model)
    check_machines(resolved)
    rung = Rung("", model, resolved)
    return replace(rung, name=f"{model.size}-{short_count(num_tokens(rung))}")


def _require_distinct(found: list[Rung]) -> None:
    names = [rung.name for rung in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "two trainings of the ladder are the same",
            expected="another size or horizon for each",
            found=", ".join(twice),
            where="sweep.sizes and sweep.tokens",
            fix="leave one out, or set sweep.tokens further apart",
        )


def next_rung(
    sweep: SweepConfig, ladder: Sequence[Rung], *, vocab_size: int
) -> tuple[ModelSize, int] | None:
    """Return size and tokens of the training after a ladder; ``None`` after the largest size.

    It keeps the tokens per parameter of the sweep, or of the ladder's largest training.
    """
    last = ladder[-1]
    sizes = get_args(ModelSize)
    place = max(sizes.index(rung.model.size) for rung in ladder) + 1
    if place == len(sizes):
        return None
    ratio = num_tokens(last) / num_matmul_params(last.model, vocab_size)
    if not sweep.tokens:
        ratio = sweep.tokens_per_param
    model = last.model.model_copy(update={"size": sizes[place]})
    return sizes[place], round(ratio * num_matmul_params(model, vocab_size))


def num_tokens(rung: Rung) -> int:
    """Return the training tokens of a rung."""
    assert rung.train.steps
    return rung.train.steps * batch_tokens_of(rung.train)


def num_matmul_params(model: ModelConfig, vocab_size: int) -> int:
    """Return the weights every token is multiplied by."""
    return model.architecture(vocab_size).num_matmul_params()


def num_flops(model: ModelConfig, tokens: int, vocab_size: int) -> float:
    """Return the compute of a training."""
    return float(tokens) * model.architecture(vocab_size).flops_per_token()


def short_count(number: int) -> str:
    """Return a count in three digits.

    Example:
        >>> short_count(1_556_480), short_count(204_800), short_count(1_704_460_288)
        ('1.56M', '205k', '1.7B')
    """
    for unit, scale in (("B", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if number >= scale:
            return f"{float(f'{number / scale:.3g}'):g}{unit}"
    return str(number)
