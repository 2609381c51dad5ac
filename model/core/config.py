"""Base class of configs: frozen, no unknown keys, with the fields that identify results.

Two marks keep a field out of cache keys, ``Annotated[int, RUNTIME_ONLY]`` always, as it changes how
fast or how chattily a result is made and never the result; ``Annotated[int, OMIT_DEFAULT]`` while
it has its default, so that results from before the field existed keep their keys.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class RuntimeOnly:
    """Mark a field that never changes the result: workers, cadence, memory."""


class OmitDefault:
    """Mark a field that came after there were keys: its default stands for what was done before."""


RUNTIME_ONLY = RuntimeOnly()
OMIT_DEFAULT = OmitDefault()


class Config(BaseModel):
    """Base of every config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def semantic(self) -> dict[str, Any]:
        """Return the fields that change what is made, JSON-ready, for cache keys."""
        plain = self.model_dump(mode="json")
        fields = type(self).model_fields
        return {
            name: value.semantic() if isinstance(value, Config) else plain[name]
            for name, value in self
            if _is_in_key(fields[name], value)
        }


def _is_in_key(field: FieldInfo, value: object) -> bool:
    if any(isinstance(mark, RuntimeOnly) for mark in field.metadata):
        return False
    omits_default = any(isinstance(mark, OmitDefault) for mark in field.metadata)
    return not (omits_default and value == field.get_default(call_default_factory=True))
