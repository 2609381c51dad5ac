"""The base of every config: frozen, no unknown keys, and the part that identifies results.

A field marked ``RuntimeOnly`` may change how fast or how chattily a thing is made, never what is
made: it stays out of cache keys.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class RuntimeOnly:
    """Mark a field that never changes what is made: workers, cadence, memory."""


RUNTIME_ONLY = RuntimeOnly()


class Config(BaseModel):
    """Base of every config: frozen, no unknown keys, and a part that identifies results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def semantic(self) -> dict[str, Any]:
        """Return the fields that change what is made, JSON-ready, for cache keys."""
        plain = self.model_dump(mode="json")
        return {
            name: value.semantic() if isinstance(value, Config) else plain[name]
            for name, value in self
            if not any(
                isinstance(mark, RuntimeOnly) for mark in type(self).model_fields[name].metadata
            )
        }
