"""A model on disk: one directory, written by training, read by scoring, export and serving.

    model.safetensors    every parameter, fp32, under the names of ``model.network.gpt``
    architecture.json    the fields of ``Architecture``

``model.export`` turns such a directory into the one other runtimes load.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config.network import Architecture
from model.core.errors import ArtifactError
from model.core.files import write_synced
from model.network.gpt import GPT

WEIGHTS_NAME = "model.safetensors"
ARCHITECTURE_NAME = "architecture.json"


def save_model(model: GPT, directory: Path) -> None:
    """Write a model to a directory; equal parameters give equal bytes."""
    save_weights(model.state_dict(), model.architecture, directory)


def save_weights(
    tensors: Mapping[str, Tensor], architecture: Architecture, directory: Path
) -> None:
    """Write the ``state_dict`` of a model to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, directory / WEIGHTS_NAME, dtype=torch.float32)
    text = architecture.model_dump_json(indent=1)
    write_synced(directory / ARCHITECTURE_NAME, text.encode())


def save_tensors(state_dict: Mapping[str, Tensor], path: Path, *, dtype: torch.dtype) -> None:
    """Write a model's parameters to one safetensors file."""
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state_dict.items()
    }
    save_file(tensors, path, metadata={"format": "pt"})  # transformers refuses files without it


def load_model(directory: Path) -> GPT:
    """Return the model of a directory, in fp32 on the CPU.

    Raises:
        ArtifactError: a file is missing or broken, or the weights do not fit the architecture.
    """
    path = directory / ARCHITECTURE_NAME
    with _naming_file(path):
        model = GPT(Architecture.model_validate_json(path.read_bytes()))
    load_tensors(model, directory / WEIGHTS_NAME)
    return model


def load_tensors(model: GPT, path: Path) -> None:
    """Set a model's parameters from one safetensors file.

    Raises:
        ArtifactError: the file is missing or broken, or does not fit the model.
    """
    with _naming_file(path):
        tensors = load_file(path)
    _require_same_shapes(tensors, model=model, where=path)
    model.load_state_dict(tensors)


def _require_same_shapes(tensors: dict[str, Tensor], *, model: GPT, where: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        raise ArtifactError(
            "the weights do not fit the architecture beside them",
            expected=f"{wrong[0]} of shape {expected.get(wrong[0], 'none: no such parameter')}",
            found=f"shape {found.get(wrong[0], 'none: it is not in the file')}; "
            f"{len(wrong)} parameters differ",
            where=where,
            fix="do not mix files of two models; delete the artifact and train again",
        )


@contextlib.contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValidationError, SafetensorError) as exc:
        raise ArtifactError(
            "a file of a saved model is missing or cannot be read",
            expected=f"{path.name} as written by training",
            found=exc,
            where=path,
            fix="delete the artifact and let its stage run again",
        ) from exc
