"""Write docs/settings.md: every setting of the flows in one line, from the configs themselves.

python -m docs.write_settings
"""

from __future__ import annotations

from pathlib import Path

from flows.overrides import groups_of
from flows.presets import LadderConfig, PretrainConfig, PublishConfig
from model.config import Config, RuntimeOnly

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Set with `--set group.field=value` on the command line, `-p 'group={"field": value}'` for a
deployment, or in the form. A preset comes first, what is set on top of it; `--dry-run` prints what
holds. Settings marked with a dot change how something is made, never what: they re-run nothing.
Written by `python -m docs.write_settings`.
"""


def settings_page() -> str:
    """Return the page as Markdown."""
    groups = {
        name: group
        for config in (PretrainConfig, PublishConfig, LadderConfig)
        for name, group in groups_of(config).items()
    }
    return "\n".join([HEAD, *(_section(name, group) for name, group in groups.items())])


def _section(name: str, group: type[Config]) -> str:
    lines = [f"## {name}", "", (group.__doc__ or "").splitlines()[0], ""]
    lines += ["| setting | default | meaning |", "|---|---|---|"]
    for field, info in group.model_fields.items():
        is_runtime = any(isinstance(mark, RuntimeOnly) for mark in info.metadata)
        default = info.get_default(call_default_factory=True)
        shown = "" if default in (None, "") else f"`{default}`"
        lines.append(
            f"| `{name}.{field}`{' ·' if is_runtime else ''} | {shown} | {info.description} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
