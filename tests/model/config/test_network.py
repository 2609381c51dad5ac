"""model.config: the planner's arithmetic of a network equals the network."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config.network import GEOMETRIES, ModelConfig
from model.network.gpt import GPT
from tests.support.small_model import random_model


@pytest.mark.parametrize("size", GEOMETRIES)
def test_architecture_num_params_equals_the_network(size):
    architecture = ModelConfig(size=size).architecture(vocab_size=4096)
    with torch.device("meta"):
        network = GPT(architecture)
    assert architecture.num_params() == network.num_params()
    matrices = sum(item.numel() for item in network.parameters() if item.ndim == 2)
    read_only = 0 if architecture.tied else network.model.embed_tokens.weight.numel()
    assert architecture.num_matmul_params() == matrices - read_only


@pytest.mark.parametrize(
    ("size", "millions", "matmul_millions"),
    [("27m", 26.7, 26.7), ("135m", 135.3, 110.1), ("375m", 375.4, 341.8), ("490m", 490.3, 448.3)],
)
def test_architecture_sizes_with_the_full_vocabulary_match_their_names(
    size, millions, matmul_millions
):
    architecture = ModelConfig(size=size).architecture(vocab_size=32_768)
    assert round(architecture.num_params() / 1e6, 1) == millions
    assert round(architecture.num_matmul_params() / 1e6, 1) == matmul_millions


def test_architecture_flops_per_token_of_gpt2_small_shape_is_the_published_figure():
    # GPT-2 small: 85 M block weights, a head of 50,304 x 768, 12 layers of 12 heads of 64.
    architecture = ModelConfig(size="135m").architecture(vocab_size=50_304)
    blocks = architecture.num_matmul_params() - 50_304 * 768
    assert blocks == 12 * (4 * 768 * 768 + 3 * 768 * 2048)
    assert round(architecture.flops_per_token() / 1e6) == 855


@pytest.mark.parametrize("tied", [True, False])
def test_architecture_flops_per_token_equals_a_count_of_the_operations(tied):
    network = random_model(tied=tied)
    architecture = network.architecture
    counter = FlopCounterMode(display=False)
    ids = torch.zeros(1, architecture.context_tokens, dtype=torch.long)
    with counter, sdpa_kernel(SDPBackend.MATH):
        network(ids)
    # Backward costs twice the forward pass.
    assert 3 * counter.get_total_flops() == architecture.flops_per_token() * ids.numel()
