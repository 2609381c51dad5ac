"""What a quality rule is: a named reason, a measure of a document, and a published limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.filters.quality_characters import Flags

Values = NDArray[np.float64]

GOPHER_QUALITY = "Rae et al. 2021, arXiv 2112.11446, section A1.1, quality filtering"
GOPHER_REPETITION = "Rae et al. 2021, arXiv 2112.11446, table A1"
C4 = "Raffel et al. 2020, JMLR 21(140), section 2.2"
FINEWEB = "Penedo et al. 2024, arXiv 2406.17557, section 3.6"
FINEWEB_CODE = "huggingface/datatrove 0.10.1, fineweb_quality_filter.py"


@dataclass(frozen=True)
class Rule:
    """One reason to drop a document.

    Args:
        reason: the name under which documents are counted.
        above: a document that measures more than this goes.
        below: a document that measures less than this goes.
        source: where the limit is published.
    """

    reason: str
    source: str
    above: float = np.inf
    below: float = -np.inf

    def drops(self, values: Values) -> Flags:
        """Return which documents go."""
        return (values > self.above) | (values < self.below)

    def detail(self, value: float) -> str:
        """Return the offending value beside the limit."""
        sign, limit = (">", self.above) if value > self.above else ("<", self.below)
        return f"{value:.4g} {sign} {limit:g}"


@dataclass
class Verdicts:
    """Why each document of a batch goes; None where it has passed every rule so far."""

    reasons: list[str | None]
    details: list[str | None]

    @staticmethod
    def none_yet(num_docs: int) -> Verdicts:
        """Return verdicts before the first rule."""
        return Verdicts([None] * num_docs, [None] * num_docs)

    @property
    def kept(self) -> Flags:
        """Return which documents stay."""
        return np.array([reason is None for reason in self.reasons], dtype=bool)

    def drop(self, doc: int, reason: str, detail: str) -> None:
        """Note the reason of a document, unless it has one."""
        if self.reasons[doc] is None:
            self.reasons[doc], self.details[doc] = reason, detail

    def apply(
        self,
        rules: Sequence[Rule],
        measures: Mapping[str, Values],
        docs: Sequence[int] | None = None,
    ) -> None:
        """Apply rules in their order; the first that drops a document names its reason.

        Args:
            rules: in the order of the recipe.
            measures: of each rule, by its reason: one value a document.
            docs: the documents measured, by their place; all of them by default.
        """
        for rule in rules:
            values = measures[rule.reason]
            for place in np.flatnonzero(rule.drops(values)).tolist():
                doc = place if docs is None else docs[place]
                self.drop(doc, rule.reason, rule.detail(float(values[place])))


def share(part: NDArray[np.number], whole: NDArray[np.number]) -> Values:
    """Return part / whole, zero where there is no whole."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0, dtype=np.float64)
