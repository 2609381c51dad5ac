"""Command line of the artifact store.

    python -m tasks.artifacts list [STAGE]     what is there: size, age, what it holds
    python -m tasks.artifacts why PATH         how an artifact was made, from what, what was changed
    python -m tasks.artifacts verify [PATH]    read every byte and compare it with its manifest
    python -m tasks.artifacts prune [--delete] what no run uses; deletes only when told
    python -m tasks.artifacts adopt DIRECTORY  take in an artifact made elsewhere

PATH is ``stage/name-key`` below the data root, or any unique beginning of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from model.core.artifact import MANIFEST_NAME, Artifact, Manifest
from model.core.errors import ArtifactError, LLMError
from model.core.store import ArtifactStore, check_sha256, check_sizes, read_manifest
from tasks.engine.stage import data_root
from tasks.engine.terminal import UNFOLDED_CHARS, WIDTH_CHARS, render

PRUNE_RULE = """\
Lists, and with --delete removes, finished artifacts and unfinished work (*.work) that no run below
runs/ leads to. A run, failed and interrupted ones too, keeps what it made or found made, all that
was made from, and the work it can resume; deleting runs/<run> gives it up. Work in progress,
cache/ and everything else stay.
"""


def list_artifacts(
    store: ArtifactStore, stage: str | None = None, *, width_chars: int = UNFOLDED_CHARS
) -> str:
    """Return a table of all finished artifacts, their names in full, folded where need be.

    Raises:
        ArtifactError: nothing of that stage is there.
    """
    manifests = store.manifests(stage)
    if stage and not manifests:
        raise _no_such_stage(store, stage)
    table = Table("artifact", "size", "made", "seconds", "counts")
    table.columns[0].overflow = "fold"
    for manifest in manifests:
        counts = ", ".join(f"{name} {value:,}" for name, value in manifest.counts.items() if value)
        table.add_row(
            manifest.artifact.relative_path,
            decimal(manifest.num_bytes),
            manifest.origin.created_at[:16],
            f"{manifest.origin.seconds:.1f}",
            counts,
        )
    return render(table, width_chars=width_chars)


def _no_such_stage(store: ArtifactStore, stage: str) -> ArtifactError:
    there = {manifest.artifact.stage for manifest in store.manifests()}
    return ArtifactError(
        f"no artifact of a stage {stage!r}",
        expected=f"one of {', '.join(sorted(there))}" if there else "an artifact of any stage",
        found="none",
        where=store.root,
        fix="name one of these, or leave the stage out to list all"
        if there
        else "run a flow first, such as `make demo`",
    )


def why(store: ArtifactStore, path: str) -> str:
    """Return the lineage of one artifact: config, versions, and its inputs, all the way down.

    And all that sets it apart from the artifact of its name that was made before it.
    """
    manifest = find(store, path)
    lines = [
        f"{manifest.artifact.relative_path}",
        f"  key {manifest.artifact.key}",
        f"  content {manifest.content_digest}",
        f"  made {manifest.origin.created_at} by {manifest.origin.created_by} "
        f"in {manifest.origin.seconds} s at commit {manifest.origin.git_commit}",
        f"  stage version {manifest.derivation.version}, "
        + ", ".join(f"{name} {text}" for name, text in manifest.origin.versions.items()),
    ]
    lines += [f"  {name} = {value!r}" for name, value in manifest.derivation.config.items()]
    lines += _lineage(store, manifest, depth=1)
    return "\n".join([*lines, *_changes(store, manifest)])


def _changes(store: ArtifactStore, manifest: Manifest) -> list[str]:
    derivation = manifest.derivation
    older = store.newest(derivation.stage, derivation.name, before=manifest.origin.created_at)
    if older is None:
        return []
    differences = derivation.differences(older.derivation)
    return [
        f"what differs from {older.artifact.relative_path}, made before:",
        *(f"  {line}" for line in differences),
    ]


def _lineage(store: ArtifactStore, manifest: Manifest, *, depth: int) -> list[str]:
    lines = []
    for role, items in manifest.derivation.inputs.items():
        for item in items:
            note = "" if (store.path(item)).exists() else "  (gone)"
            lines.append(f"{'  ' * depth}<- {role}: {item.relative_path}{note}")
            if not note:
                lines += _lineage(store, store.read_manifest(item), depth=depth + 1)
    return lines


def verify(store: ArtifactStore, path: str | None = None) -> Iterator[str]:
    """Yield a line for each artifact whose bytes were read, whether they are as recorded or not.

    Raises:
        ArtifactError: at the end, naming those with a file of other bytes, or without one.
    """
    broken = []
    for manifest in [find(store, path)] if path else store.manifests():
        name = manifest.artifact.relative_path
        try:
            store.verify(manifest.artifact)
        except ArtifactError as error:
            broken.append(name)
            yield f"BAD {name}\n{error}"
        else:
            yield f"ok  {name}"
    if broken:
        raise ArtifactError(
            f"{len(broken)} artifacts are not what their stages made",
            expected="every file as its manifest records it",
            found=", ".join(broken),
            where=store.root,
            fix="delete them, and let their stages run again",
        )


def unused(store: ArtifactStore) -> list[Path]:
    """Return the directories that no run below ``runs/`` leads to.

    A run keeps its artifacts, everything they were made from, and the work directories of what it
    has not finished; deleting ``runs/<run>`` gives it up. A work directory in use is never unused.
    """
    used: set[Path] = set()
    for link in (store.root / "runs").glob("*/*/*"):
        target = store.root / link.readlink().relative_to("../../..")
        used.add(target.with_name(f"{target.name}.work"))
        if (target / MANIFEST_NAME).exists():
            _mark(store, read_manifest(target), used)
        else:
            used.add(target)
    finished = [store.path(manifest.artifact) for manifest in store.manifests()]
    works = [path for path in sorted(store.root.glob("*/*.work")) if not _is_locked(store, path)]
    return [path for path in [*finished, *works] if path not in used]


def _mark(store: ArtifactStore, manifest: Manifest, used: set[Path]) -> None:
    path = store.path(manifest.artifact)
    if path in used:
        return
    used.add(path)
    for item in (item for items in manifest.derivation.inputs.values() for item in items):
        if store.path(item).exists():
            _mark(store, store.read_manifest(item), used)


def _is_locked(store: ArtifactStore, work: Path) -> bool:
    path = work.with_suffix("")
    name = path.name.rpartition("-")[0]
    relative = path.relative_to(store.root).as_posix()
    return store.is_locked(
        Artifact(stage=path.parent.name, name=name, key="", relative_path=relative)
    )


def adopt(store: ArtifactStore, directory: Path) -> Manifest:
    """Copy an artifact made elsewhere into the store, after reading every byte of it.

    Raises:
        ArtifactError: the directory is no finished artifact, or contradicts its manifest.
    """
    manifest = read_manifest(directory)
    check_sizes(directory, manifest)
    for entry in manifest.files:
        check_sha256(directory / entry.path, entry)
    if manifest.derivation.artifact != manifest.artifact:
        raise ArtifactError(
            "the manifest names another artifact than its derivation",
            expected=manifest.derivation.artifact.relative_path,
            found=manifest.artifact.relative_path,
            where=directory,
            fix="adopt only artifacts that this project wrote",
        )
    target = store.path(manifest.artifact)
    with store.locked(manifest.artifact):
        if target.exists():
            return store.verify(manifest.artifact)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.adopted"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(directory, partial)
        for entry in manifest.files:
            check_sha256(partial / entry.path, entry)
        partial.rename(target)
    return manifest


def find(store: ArtifactStore, path: str) -> Manifest:
    """Return the manifest of the artifact whose path below the root begins with ``path``.

    Raises:
        ArtifactError: none or several do.
    """
    path = path.removeprefix(f"{store.root}/").strip("/")
    fitting = [
        manifest
        for manifest in store.manifests()
        if manifest.artifact.relative_path.startswith(path)
    ]
    if len(fitting) != 1:
        raise ArtifactError(
            f"{'no artifact begins' if not fitting else 'several artifacts begin'} with {path!r}",
            expected="stage/name-key, or a unique beginning of it",
            found=", ".join(item.artifact.relative_path for item in fitting[:5]) or "none",
            where=store.root,
            fix="see `python -m tasks.artifacts list`",
        )
    return fitting[0]


def _prune(store: ArtifactStore, *, delete: bool) -> Iterable[str]:
    found = unused(store)
    for path in found:
        num_bytes = sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
        if delete:
            shutil.rmtree(path)
        word = "deleted" if delete else "unused"
        yield f"{word}  {decimal(num_bytes):>10} {path.relative_to(store.root)}"
    if not found:
        yield "everything is used: nothing to delete"
    elif not delete:
        yield "nothing was deleted; add --delete to delete what is listed as unused"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parse(arguments)
    store = ArtifactStore(data_root())
    try:
        for line in _run(options, store):
            sys.stdout.write(f"{line}\n")
    except LLMError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _run(options: argparse.Namespace, store: ArtifactStore) -> Iterable[str]:
    if options.command == "list":
        width_chars = WIDTH_CHARS if sys.stdout.isatty() else UNFOLDED_CHARS
        return [list_artifacts(store, options.stage, width_chars=width_chars)]
    if options.command == "why":
        return [why(store, options.path)]
    if options.command == "verify":
        return verify(store, options.path)
    if options.command == "prune":
        return _prune(store, delete=options.delete)
    return [f"adopted {adopt(store, options.directory).artifact.relative_path}"]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.artifacts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what is there").add_argument("stage", nargs="?")
    commands.add_parser("why", help="how one was made").add_argument("path")
    commands.add_parser("verify", help="read every byte").add_argument("path", nargs="?")
    prune = commands.add_parser("prune", help="what no run uses", description=PRUNE_RULE)
    prune.add_argument("--delete", action="store_true", help="delete it")
    adopt_parser = commands.add_parser("adopt", help="take in an artifact made elsewhere")
    adopt_parser.add_argument("directory", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
