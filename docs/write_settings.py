"""Write docs/settings.md: every setting of the flows in one line, from the configs themselves.

python -m docs.write_settings
"""

from __future__ import annotations

from pathlib import Path

from flows.settings.config import LadderConfig, PretrainConfig, PublishConfig
from flows.settings.overrides import groups_of
from model.core.config import Config, RuntimeOnly

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Set with `--set group.field=value` on the command line, `-p 'group={"field": value}'` for a
deployment, or in the form. A preset comes first, what is set on top of it; `--dry-run` prints what
holds. Settings marked with a dot change how something is made, never what: they re-run nothing.
Written by `python -m docs.write_settings`.
"""

ALONE = "`then_finetune` stands in no group: {}.\n"


def settings_page() -> str:
    """Return the page as Markdown."""
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
    alone = ALONE.format(PretrainConfig.model_fields["then_finetune"].description)
    sections = (_section(name, group) for name, group in (groups | inner).items())
    return "\n".join([HEAD, alone, *sections])


def _section(name: str, group: type[Config]) -> str:
    lines = [f"## {name}", "", (group.__doc__ or "").splitlines()[0], ""]
    lines += ["| setting | default | meaning |", "|---|---|---|"]
    for field, info in group.model_fields.items():
        is_runtime = any(isinstance(mark, RuntimeOnly) for mark in info.metadata)
        default = info.get_default(call_default_factory=True)
        dot = " ·" if is_runtime else ""
        lines.append(f"| `{name}.{field}`{dot} | {_shown(default)} | {info.description} |")
    return "\n".join([*lines, ""])


def _shown(default: object) -> str:
    """Return a default value; of a group within a group, what differs from the group's own."""
    if isinstance(default, Config):
        usual = type(default)()
        own = {name: value for name, value in default if value != getattr(usual, name)}
        return ", ".join(f"`{name}={value}`" for name, value in own.items())
    return "" if default in (None, "") else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
