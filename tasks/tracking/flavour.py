"""``pyfunc`` flavour of an exported folder, so that MLflow can serve it with our code.

    MLmodel                                     names the files below
    pyfunc_model.py                             ``model.export.pyfunc_model``, which MLflow runs
    code/model/                                 the package that file imports
    requirements.txt python_env.yaml conda.yaml what that needs, in the versions at hand
    manifest.json                               of the artifact that the folder was

Written file by file, without MLflow: its own ``save_model`` would run the model's code, and with it
torch, in the process of the flow.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from pathlib import Path

import yaml

from model.core.artifact import MANIFEST_NAME
from tasks.engine.pipeline import project_root

MODEL_FILE = "MLmodel"
CODE_FILE = "pyfunc_model.py"
CODE_DIRECTORY = "code"
LOADER = "mlflow.pyfunc.loaders.code_model"  # MLflow's, of models from code
NEEDED = (
    "mlflow", "torch", "numpy", "pyarrow", "pydantic", "tokenizers", "safetensors", "jaxtyping",
)  # fmt: skip
FOLDER = "folder"  # the name by which pyfunc_model asks for the exported folder


def write_flavour(artifact_directory: Path, destination: Path) -> None:
    """Write the files that make an uploaded exported folder a model to MLflow.

    They go to the same place as the folder's own files and take none of their names.

    Args:
        artifact_directory: of the export_model artifact.
        destination: takes the files; must exist.
    """
    package = project_root() / "model"
    shutil.copyfile(package / "export" / CODE_FILE, destination / CODE_FILE)
    shutil.copytree(
        package,
        destination / CODE_DIRECTORY / "model",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copyfile(artifact_directory / MANIFEST_NAME, destination / MANIFEST_NAME)
    requirements = [f"{name}=={_plain_version(name)}" for name in NEEDED]
    (destination / "requirements.txt").write_text("\n".join(requirements) + "\n")
    python = platform.python_version()
    environment = {
        "python": python,
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    _write_yaml(destination / "python_env.yaml", environment)
    conda = [f"python={python}", "pip", {"pip": requirements}]
    _write_yaml(destination / "conda.yaml", {"name": "mlflow-env", "dependencies": conda})
    flavour = {
        "loader_module": LOADER,
        "model_code_path": CODE_FILE,
        "code": CODE_DIRECTORY,
        "artifacts": {FOLDER: {"path": ".", "uri": "."}},
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "python_version": python,
        "streamable": False,
    }
    described = {
        "flavors": {"python_function": flavour},
        "mlflow_version": importlib.metadata.version("mlflow"),
    }
    _write_yaml(destination / MODEL_FILE, described)


def _plain_version(package: str) -> str:
    """Return a version without its build: ``2.13.0`` of ``2.13.0+cpu``."""
    return importlib.metadata.version(package).partition("+")[0]


def _write_yaml(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
