"""Typed outputs of a stage: files, counts and facts.

Each stage defines one subclass of ``Outputs`` with an ``OutputFile`` for each file that others
read, and classes of its ``Counts`` and ``Facts``. The body of the stage records its numbers through
it, and consumers read files and numbers through it.

    class FilterDocumentsOutputs(
        Outputs[FilterDocumentsCounts, FilterDocumentsFacts], stage="filter_documents"
    ):
        part = OutputFile("part.parquet")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.core.artifact import Artifact, Manifest
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore, Work, read_manifest


class Numbers(BaseModel):
    """Base of counts and facts: frozen; unknown names are refused when recorded, ignored when read.

    A field that is not set is absent from the manifest, as opposed to one that is set to None.
    Subclasses with ``extra="allow"`` take names that are only known when the stage runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    EXTRAS_FIRST: ClassVar[bool] = False  # their place in the manifest

    def plain(self) -> dict[str, Any]:
        """Return the JSON-ready dictionary for the manifest."""
        named = self.model_dump(mode="json", include=self.model_fields_set)
        extras = {name: named.pop(name) for name in self.model_extra or ()}
        return extras | named if self.EXTRAS_FIRST else named | extras


class Counts(Numbers):
    """What went into a stage and where it went; adds up."""


class OpenCounts(Counts, extra="allow"):
    """Counts of which some have names that are only known when the stage runs."""

    __pydantic_extra__: dict[str, int] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def extras(self) -> dict[str, int]:
        """Those counts."""
        return dict(self.__pydantic_extra__)


class DropCounts(OpenCounts):
    """Documents in = kept + dropped; each further name is a reason to drop."""

    num_in: int
    num_kept: int

    @property
    def dropped(self) -> dict[str, int]:
        """Documents by the reason they were dropped for, zeros included."""
        return self.extras


class Facts(Numbers):
    """What else consumers and readers want to know of an artifact."""


CountsT = TypeVar("CountsT", bound=Counts)
FactsT = TypeVar("FactsT", bound=Facts)
NumbersT = TypeVar("NumbersT", bound=Numbers)


class OutputFile:
    """A file or folder of an artifact: its path, read on an instance of ``Outputs``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, outputs: Outputs[Any, Any], _owner: object = None) -> Path:
        """Return where it lies."""
        return outputs.directory / self.name


@dataclass(frozen=True)
class Outputs(Generic[CountsT, FactsT]):
    """The artifact of one stage in its directory, finished or being made."""

    directory: Path

    stage: ClassVar[str]
    counts_type: ClassVar[type[Counts]]
    facts_type: ClassVar[type[Facts]]

    def __init_subclass__(cls, *, stage: str | None = None) -> None:
        for base in getattr(cls, "__orig_bases__", ()):
            if get_origin(base) is Outputs:
                cls.counts_type, cls.facts_type = get_args(base)
        if stage:
            cls.stage = stage

    @classmethod
    def of(cls, store: ArtifactStore, artifact: Artifact) -> Self:
        """Return the outputs of an artifact of this stage."""
        assert cls.made(artifact), f"{artifact.relative_path} is no artifact of {cls.stage}"
        return cls(store.path(artifact))

    @classmethod
    def inputs(cls, work: Work, role: str) -> list[Self]:
        """Return the outputs that are inputs of a ``role``, in their derivation's order."""
        return [cls.of(work.store, item) for item in work.derivation.inputs[role]]

    @classmethod
    def input(cls, work: Work, role: str) -> Self:
        """Return the only input of a ``role``."""
        (found,) = cls.inputs(work, role)
        return found

    @classmethod
    def made(cls, item: Artifact | Manifest) -> bool:
        """Return whether an artifact is one of this stage."""
        return (item.artifact if isinstance(item, Manifest) else item).stage == cls.stage

    @classmethod
    def among(cls, manifests: Iterable[Manifest]) -> list[Manifest]:
        """Return the manifests of this stage."""
        return [item for item in manifests if cls.made(item)]

    @classmethod
    def manifests(cls, store: ArtifactStore) -> list[Manifest]:
        """Return the manifests of all finished artifacts of this stage in a store, by path."""
        return store.manifests(cls.stage)

    @classmethod
    def record(cls, work: Work, counts: CountsT | None = None, facts: FactsT | None = None) -> None:
        """Record the numbers of a stage, as its body ends."""
        assert work.derivation.stage == cls.stage, work.derivation.stage
        work.counts = counts.plain() if counts else {}
        work.facts = facts.plain() if facts else {}

    @classmethod
    def counts_of(cls, manifest: Manifest) -> CountsT:
        """Return the counts of an artifact of this stage.

        Raises:
            ArtifactError: they are not what this stage records.
        """
        return cls._read(cls.counts_type, manifest.counts, manifest, what="counts")

    @classmethod
    def facts_of(cls, manifest: Manifest) -> FactsT:
        """Return the facts of an artifact of this stage.

        Raises:
            ArtifactError: they are not what this stage records.
        """
        return cls._read(cls.facts_type, manifest.facts, manifest, what="facts")

    @classmethod
    def _read(
        cls, kind: type[Numbers], found: dict[str, Any], manifest: Manifest, *, what: str
    ) -> Any:
        assert cls.made(manifest), f"{manifest.artifact.relative_path} is not of {cls.stage}"
        is_open = kind.model_config.get("extra") == "allow"
        try:
            return kind.model_validate(found, extra="allow" if is_open else "ignore")
        except ValidationError as exc:
            fault = exc.errors()[0]
            name = ".".join(str(part) for part in fault["loc"])
            raise ArtifactError(
                f"the {what} of a manifest are not those that {cls.stage} records",
                expected=f"the fields of {kind.__name__}",
                found=f"{name}: {fault['msg']}",
                where=manifest.artifact.relative_path,
                fix="delete the artifact and let its stage run again",
            ) from exc

    @classmethod
    def nearest(cls, manifest: Manifest, store: ArtifactStore) -> Manifest | None:
        """Return the nearest ancestor of this stage, if it is still there."""
        return next(filter(cls.made, ancestors(manifest, store)), None)

    @cached_property
    def manifest(self) -> Manifest:
        """The record of the finished artifact; ArtifactError where there is none."""
        return read_manifest(self.directory)

    @property
    def counts(self) -> CountsT:
        """What went into the finished artifact and where it went."""
        return self.counts_of(self.manifest)

    @property
    def facts(self) -> FactsT:
        """What else was recorded of the finished artifact."""
        return self.facts_of(self.manifest)


def ancestors(manifest: Manifest, store: ArtifactStore) -> Iterator[Manifest]:
    """Yield all that an artifact was made from, each once, nearest first, without pruned ones.

    Artifacts of one level come in the order of their derivations.
    """
    seen: set[str] = set()
    level = [manifest]
    while level:
        items = {
            item.key: item
            for above in level
            for items in above.derivation.inputs.values()
            for item in items
            if item.key not in seen
        }
        seen |= items.keys()
        level = [found for item in items.values() if (found := _find_manifest(item, store))]
        yield from level


def _find_manifest(artifact: Artifact, store: ArtifactStore) -> Manifest | None:
    try:
        return store.read_manifest(artifact)
    except ArtifactError:  # pruned: its consumers do without it
        return None
