"""Promotion to champion: the gate in front of the alias, and rollback, in an MLflow registry.

    candidate   the newest version of a registered model that a pipeline made
    champion    the version that is served
    previous    the champion before, to which ``roll_back`` returns

A version also remembers, as a tag, which champion it took over from, so that several steps back are
possible. Scores and data are read from the tags that register_model gave the version. A score that
both versions have, measured on equal data, must be no worse; one that cannot be compared is
skipped and reported, unless it is required.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from model.core.config import Config
from model.core.errors import PromotionError, RegistryError
from model.export.registry import CANDIDATE, CHAMPION, PREVIOUS
from tasks.config.evaluation import PINNED_SCORES, PinnedScore

BEFORE_TAG = "llm.champion_before"
FORCED_TAG = "llm.promotion_forced"

Verdict = Literal["no worse", "worse", "not measured", "on other data", "new"]
Outcome = Literal["promoted", "already champion", "rolled back"]
INCOMPARABLE: tuple[Verdict, ...] = ("not measured", "on other data")


class Comparison(Config):
    """One pinned score of two versions."""

    score: PinnedScore
    candidate: float | None
    champion: float | None
    verdict: Verdict

    @property
    def is_fault(self) -> bool:
        """Whether the candidate may not take over because of this score."""
        return self.verdict == "worse" or (self.is_skipped and self.score.required)

    @property
    def is_skipped(self) -> bool:
        """Whether the score does not compare."""
        return self.verdict in INCOMPARABLE

    def text(self) -> str:
        """Return the numbers and what follows from them, in one line."""
        shown = [
            "none" if value is None else f"{value:.6f}" for value in (self.candidate, self.champion)
        ]
        passed_over = ", passed over" if self.is_skipped and not self.is_fault else ""
        return (
            f"{self.score.name} {shown[0]} against the champion's {shown[1]} "
            f"({self.score.better} is better, tolerance {self.score.tolerance:g}): "
            f"{self.verdict}{passed_over}"
        )


class Promotion(Config):
    """What became of the alias."""

    name: str
    version: int
    champion_before: int | None
    outcome: Outcome
    comparisons: tuple[Comparison, ...] = ()

    def text(self) -> str:
        """Return what happened, with the numbers."""
        before = f", before it version {self.champion_before}" if self.champion_before else ""
        lines = [f"{self.name}: version {self.version} {self.outcome}{before}"]
        return "\n  ".join([*lines, *(item.text() for item in self.comparisons)])


def compare(
    candidate: Mapping[str, str],
    champion: Mapping[str, str],
    *,
    scores: Sequence[PinnedScore] = PINNED_SCORES,
) -> tuple[Comparison, ...]:
    """Return the pinned scores that either of two versions has, side by side.

    Args:
        candidate: tags of a version.
        champion: tags of the version it would take over from.
    """
    return tuple(
        _compare(score, candidate, champion)
        for score in scores
        if score.name in candidate or score.name in champion
    )


def _compare(
    score: PinnedScore, candidate: Mapping[str, str], champion: Mapping[str, str]
) -> Comparison:
    data = candidate.get(score.data_tag)
    is_comparable = data is not None and data == champion.get(score.data_tag)
    mine, theirs = (
        float(tags[score.name]) if score.name in tags else None for tags in (candidate, champion)
    )
    verdict: Verdict
    if mine is None:
        verdict = "not measured"
    elif theirs is None:
        verdict = "new"
    elif not is_comparable:
        verdict = "on other data"
    else:
        lost = mine - theirs if score.better == "lower" else theirs - mine
        verdict = "no worse" if lost <= score.tolerance else "worse"  # not a number is worse
    return Comparison(score=score, candidate=mine, champion=theirs, verdict=verdict)


def promote(
    client: MlflowClient, name: str, *, version: int | None = None, force: bool = False
) -> Promotion:
    """Make a version the champion if it is no worse than the one there is, or the first.

    Args:
        version: unset = the candidate.
        force: without looking at the scores.

    Raises:
        PromotionError: it is worse, or cannot be compared; the numbers are in the message.
        RegistryError: there is no such model or version.
    """
    chosen = _version(client, name, version if version is not None else CANDIDATE)
    champion = _alias(client, name, CHAMPION)
    number = int(chosen.version)
    if champion == number:
        before = _tagged_before(chosen)
        return Promotion(
            name=name, version=number, champion_before=before, outcome="already champion"
        )
    comparisons: tuple[Comparison, ...] = ()
    if champion is not None:
        comparisons = compare(chosen.tags, _version(client, name, champion).tags)
        if not force:
            _require_no_worse(name, number, champion, comparisons)
    _set_champion(client, name, number, before=champion, forced=force)
    return Promotion(
        name=name,
        version=number,
        champion_before=champion,
        outcome="promoted",
        comparisons=comparisons,
    )


def roll_back(client: MlflowClient, name: str) -> Promotion:
    """Make the champion before the champion again.

    Raises:
        RegistryError: there is no such model, or no champion before that is still there.
    """
    before = _alias(client, name, PREVIOUS)
    if before is None:
        raise RegistryError(
            f"{name} has no champion to go back to",
            expected=f"the alias {PREVIOUS}, which a promotion sets",
            found=f"aliases {', '.join(_aliases(client, name)) or 'none'}",
            fix="promote the version you want: python -m flows.promote --version N --force",
        )
    restored = _version(client, name, before)
    left = _alias(client, name, CHAMPION)
    client.set_registered_model_alias(name, CHAMPION, str(before))
    earlier = _tagged_before(restored)
    if earlier is None:
        client.delete_registered_model_alias(name, PREVIOUS)
    else:
        client.set_registered_model_alias(name, PREVIOUS, str(earlier))
    return Promotion(name=name, version=before, champion_before=left, outcome="rolled back")


def _set_champion(
    client: MlflowClient, name: str, version: int, *, before: int | None, forced: bool
) -> None:
    """Move the aliases; the way back is there before the new champion is."""
    client.set_model_version_tag(name, str(version), FORCED_TAG, str(forced).lower())
    if before is not None:
        client.set_model_version_tag(name, str(version), BEFORE_TAG, str(before))
        client.set_registered_model_alias(name, PREVIOUS, str(before))
    client.set_registered_model_alias(name, CHAMPION, str(version))


def _require_no_worse(
    name: str, version: int, champion: int, comparisons: Sequence[Comparison]
) -> None:
    if any(item.verdict == "no worse" for item in comparisons) and not any(
        item.is_fault for item in comparisons
    ):
        return
    raise PromotionError(
        f"version {version} of {name} does not take over from the champion, version {champion}",
        expected="every pinned score that compares no worse than the champion's, and "
        "bits_per_byte on equal data",
        found="; ".join(item.text() for item in comparisons) or "no score that both have",
        fix="keep the champion, or promote it all the same: "
        f"python -m flows.promote --name {name} --version {version} --force",
    )


def _aliases(client: MlflowClient, name: str) -> dict[str, int]:
    try:
        return {key: int(value) for key, value in client.get_registered_model(name).aliases.items()}
    except MlflowException as exc:
        raise RegistryError(
            f"there is no registered model {name}",
            expected="a model that a pipeline registered",
            found=", ".join(item.name for item in client.search_registered_models()) or "none",
            fix="name one of those (--name), or run the pipeline that registers it",
        ) from exc


def _alias(client: MlflowClient, name: str, alias: str) -> int | None:
    return _aliases(client, name).get(alias)


def _version(client: MlflowClient, name: str, which: int | str) -> Any:
    """Return a version by its number or alias."""
    aliases = _aliases(client, name)
    number = aliases.get(which) if isinstance(which, str) else which
    try:
        return client.get_model_version(name, str(number))  # "None" where the alias is not there
    except MlflowException as exc:
        raise RegistryError(
            f"{name} has no version {which}",
            expected="a version or an alias that is there",
            found=f"aliases {', '.join(aliases) or 'none'}",
            fix="look at the model's page in MLflow, or run its pipeline",
        ) from exc


def _tagged_before(version: Any) -> int | None:
    tag = version.tags.get(BEFORE_TAG)
    return int(tag) if tag else None
