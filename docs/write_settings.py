"""Write docs/settings.md: every setting of the flows in one line, from the configs themselves.

python -m docs.write_settings
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from flows.settings.config import LadderConfig, PretrainConfig, PublishConfig
from flows.settings.overrides import groups_of
from model.core.config import Config, RuntimeOnly

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Written by `python -m docs.write_settings` from the config classes; do not edit this page.

A setting is `group.field`. Its value is yours, else the preset's, else the field's default:

```
python -m flows.pretrain --preset sample --set train.steps=200 --set model.size=27m --dry-run
prefect deployment run pretrain/sample -p 'train={"steps": 200}' -p 'model={"size": "27m"}'
```

or the form in the Prefect UI. Values are JSON, or else text; for a shell, JSON stands in quotes:
`--set 'evaluation.sets={"blimp": "eval/blimp.parquet"}'`. An unknown name is an error that names
the nearest one.

`--dry-run` prints every resolved setting and the plan: what would run or is cached and why, disk,
memory, tokens, parameters, FLOPs, time, and the score to expect. `--why` adds everything that
differs from what was made before. A run that cannot fit the disk is refused before it starts.

A setting with a dot (·) is not part of a cache key: it changes how something is made and not what,
or names files that are identified by their content. Changing a setting without one re-runs the
stages that depend on it. In the tables `{}` is an empty mapping, `()` an empty list; no default
means unset.

## Settings to know first

"""
ENVIRONMENT = """
## Environment variables

Secrets, addresses and the data root are no settings.

| variable | default | meaning |
|---|---|---|
| `LLM_DATA_ROOT` | `./data` | directory of the [artifact store](artifacts.md) |
| `MLFLOW_TRACKING_URI` | SQLite file in `.mlflow/` | MLflow store |
| `HF_ENDPOINT` | `https://huggingface.co` | address of the hub |
| `HF_TOKEN`, `HF_HUB_OFFLINE` | unset | access token of the hub; `1`: no network |
| `RAY_ADDRESS`, `DASK_SCHEDULER_ADDRESS` | unset | cluster of `run.task_runner=ray` or `dask` |
| `PREFECT_API_URL` | `http://127.0.0.1:4200/api` | Prefect server; without one, a temporary one |
| `PREFECT_LOGGING_LEVEL` | `INFO` | `DEBUG` also shows tracebacks of user-fixable errors |

Prefect's and MLflow's other variables hold as well.

## All settings

### without a group

"""
NOTES = """
* Horizon: at most one of `train.steps`, `train.tokens`, `train.epochs` and `train.budget_minutes`.
  Without any it is 12 tokens per parameter. A budget in minutes is turned into steps first, by
  measuring the speed of this machine.
* Batch, learning rates, weight decay and warmup that are unset follow from the model size
  ([decision 011](decisions/011-small-sizes-untied.md), `model/config/defaults.py`).
* `source.max_documents`: from the hub, only the row groups that hold them are fetched.
* Documents without a language label get one from the language model before they are filtered.
* `train.nodes`: with several machines, the log shows the command to start on the others.
* Why chat fine-tuning and preference tuning are as they are: decisions
  [019](decisions/019-chat-fine-tuning.md) and [021](decisions/021-preference-tuning.md).
"""
IMPORTANT = (
    "source.kind", "source.path", "source.repo", "source.max_documents",
    "filter.profile", "filter.min_language_score", "filter.min_words", "personal_data.action",
    "dedup.match", "dedup.min_jaccard", "decontamination.sets", "tokenizer.vocab_size",
    "model.size", "model.context_tokens",
    "train.steps", "train.tokens", "train.epochs", "train.budget_minutes",
    "train.batch_tokens_per_step", "train.learning_rate", "train.optimizer", "train.processes",
    "evaluation.sets", "evaluation.num_generations",
    "then_finetune", "chat.sets", "chat.weights", "finetune.base", "preference.method",
    "data.seed", "train.seed", "run.task_runner", "run.workers", "run.memory_gb",
)  # fmt: skip
TABLE = ("| setting | default | meaning |", "|---|---|---|")
SHOWN_CHARS = 60  # of a default value in the short table


def settings_page() -> str:
    """Return the page as Markdown."""
    groups = all_groups()
    fields = {
        f"{name}.{field}": info
        for name, group in groups.items()
        for field, info in group.model_fields.items()
    }
    single = {"then_finetune": PretrainConfig.model_fields["then_finetune"]}
    chosen = {name: (fields | single)[name] for name in IMPORTANT}
    short = [*TABLE, *(_row(name, info, max_chars=SHOWN_CHARS) for name, info in chosen.items())]
    alone = [*TABLE, *(_row(name, info) for name, info in single.items())]
    head = HEAD + "\n".join(short) + "\n" + NOTES + ENVIRONMENT + "\n".join(alone) + "\n"
    return "\n".join([head, *(_section(name, group) for name, group in groups.items())])


def all_groups() -> dict[str, type[Config]]:
    """Return every group of settings, and the groups within them: dotted name -> config class."""
    groups = {
        name: group
        for config in (PretrainConfig, PublishConfig, LadderConfig)
        for name, group in groups_of(config).items()
    }
    inner = {
        f"{name}.{field}": kind
        for name, group in groups.items()
        for field, kind in groups_of(group).items()
        if kind not in groups.values()  # others are described once, where they are groups
    }
    return groups | inner


def _section(name: str, group: type[Config]) -> str:
    rows = (_row(f"{name}.{field}", info) for field, info in group.model_fields.items())
    return "\n".join(
        [f"### {name}", "", (group.__doc__ or "").splitlines()[0], "", *TABLE, *rows, ""]
    )


def _row(name: str, info: FieldInfo, *, max_chars: int | None = None) -> str:
    is_runtime = any(isinstance(mark, RuntimeOnly) for mark in info.metadata)
    default = _shown(info.get_default(call_default_factory=True), max_chars=max_chars)
    others = [f"`{choice}`" for choice in _choices(info.annotation) if f"`{choice}`" != default]
    choices = "; or ".join(filter(None, [default, ", ".join(others)]))
    return f"| `{name}`{' ·' if is_runtime else ''} | {choices} | {info.description} |"


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the allowed values of a field that has a fixed list of them."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _shown(default: object, *, max_chars: int | None) -> str:
    """Return a default value; of a group within a group, what differs from the group's own."""
    if isinstance(default, Config):
        usual = type(default)()
        own = {name: value for name, value in default if value != getattr(usual, name)}
        return ", ".join(f"`{name}={value}`" for name, value in own.items())
    if default in (None, ""):
        return ""
    if max_chars and len(str(default)) > max_chars:
        return "[see below](#all-settings)"
    return f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
