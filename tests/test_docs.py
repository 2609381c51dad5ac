"""The pages of docs/ that are made from the code are what the code says now."""

from __future__ import annotations

from docs.write_settings import PAGE, settings_page


def test_settings_page_is_what_the_configs_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), (
        "run `python -m docs.write_settings` and commit docs/settings.md"
    )
