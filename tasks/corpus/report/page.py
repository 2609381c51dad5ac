"""Show a corpus report as one HTML page that needs no script and nothing from outside.

The page follows the reader's colour scheme. Whatever a document holds is shown as text:
``report_html`` escapes it, and the page's own policy forbids scripts and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

from tasks.corpus.report.charts import histogram_chart, vocabulary_chart
from tasks.corpus.report.data import Excerpt, Histogram, Loss, Origins, Pair, Report, Summary
from tasks.corpus.report.elements import Markup, bar, element, join, number, percent, size, table
from tasks.corpus.report.examples import ELLIPSIS

TITLE = "Corpus report"
STYLE_SHEET = Path(__file__).with_name("report.css")
PIECE = re.compile(r"\s*\S+\s*|\s+")  # a word with the blanks around it
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
LEGEND = element(
    "p",
    element("span", class_="key before"),
    " before: every document of the source   ",
    element("span", class_="key after"),
    " after: the documents that training gets",
    class_="legend",
)


def page(report: Report) -> str:
    """Return the page of a report."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", TITLE),
        element("style", Markup(STYLE_SHEET.read_text(encoding="utf-8"))),
    )
    sections = [
        _section("Funnel", _funnel(report)),
        _section("Why documents were dropped", _losses(report)),
        _section("Copies", _copies(report)),
        _section("Language score", _distribution(report.score, digits=3)),
        _section("Length", _lengths(report)),
        _section("Domains", _origins(report.domains, report, what="domain")),
        _section("Dumps", _origins(report.dumps, report, what="dump")),
        _section("Diversity", _diversity(report)),
        _section("Further counts", _further_counts(report)),
        _section("Tokens", _tokens(report)),
        _section("Disk", _disk(report)),
    ]
    body = element("body", element("main", _header(report), sections))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _section(title: str, content: Markup) -> Markup:
    name = title.lower().replace(" ", "-")
    return element("section", element("h2", title, id=name), content, aria_labelledby=name)


def _header(report: Report) -> Markup:
    source = ", ".join(f"{name} {value}" for name, value in report.source.items())
    num_skipped = report.skipped_records
    skipped = f"; {num_skipped:,} broken records skipped" if num_skipped else ""
    training = report.tokens.training_documents
    tiles = (
        (number(report.funnel[0].documents), "documents in the source"),
        (number(training), f"for training ({percent(training, report.funnel[0].documents)})"),
        (number(report.tokens.training), "training tokens"),
        (number(report.domains.distinct_after), "domains for training"),
        (size(sum(item.bytes for item in report.disk)), "on disk, all stages"),
    )
    return element(
        "header",
        element("h1", TITLE),
        element("p", f"{report.files:,} files; source: {source}{skipped}", class_="note"),
        element(
            "dl",
            (element("div", element("dt", what), element("dd", value)) for value, what in tiles),
            class_="tiles",
        ),
    )


def _funnel(report: Report) -> Markup:
    whole = max(1, report.funnel[0].documents)
    rows = [
        (
            line.stage,
            line.what,
            _funnel_bar(line.documents / whole),
            number(line.documents),
            f"{line.percent:.1f} %",
        )
        for line in report.funnel
    ]
    caption = "Where every document of the source went; negative numbers were dropped there."
    if report.skipped_records:
        caption += " Records that were skipped as broken never became documents."
    return table(caption, ("stage", "what", "", "documents", "of source"), rows, num_texts=3)


def _funnel_bar(share: float) -> Markup:
    return bar(-share) if share < 0 else bar(share, inner=share)


def _losses(report: Report) -> Markup:
    losses = sorted(report.losses, key=lambda loss: (-loss.documents, loss.stage, loss.reason))
    if not losses:
        return element("p", "Nothing was dropped.", class_="note")
    most, whole = losses[0].documents, report.funnel[0].documents
    rows = [
        (
            loss.reason,
            loss.stage,
            bar(loss.documents / most),
            number(loss.documents),
            percent(loss.documents, whole),
        )
        for loss in losses
    ]
    return join(
        table(
            "Documents dropped by reason, most frequent first.",
            ("reason", "stage", "", "documents", "of source"),
            rows,
            num_texts=3,
        ),
        element("h3", "Examples"),
        element("p", "Random documents of each reason, cut to their beginning.", class_="note"),
        (
            _examples(loss, is_open=place == 0)
            for place, loss in enumerate(loss for loss in losses if loss.examples)
        ),
    )


def _examples(loss: Loss, *, is_open: bool) -> Markup:
    return element(
        "details",
        element("summary", f"{loss.reason} ({len(loss.examples)} of {loss.documents:,})"),
        (
            element(
                "figure",
                element("figcaption", _place(item.excerpt), _detail(item.detail)),
                _text(item.excerpt),
            )
            for item in loss.examples
        ),
        open="" if is_open else None,
    )


def _detail(detail: str | None) -> Markup | None:
    return join(": ", element("strong", detail)) if detail else None


def _place(excerpt: Excerpt) -> str:
    return f"{excerpt.file}, row {excerpt.row:,}"


def _text(excerpt: Excerpt, *, content: Markup | None = None) -> Markup:
    if excerpt.text is None:
        return element("p", "no text at hand", class_="note")
    return element("blockquote", content if content is not None else excerpt.text, dir="auto")


def _copies(report: Report) -> Markup:
    if not (report.cluster_sizes or report.pairs):
        return element("p", "No document is a copy of another.", class_="note")
    sizes = [
        (
            item.kind,
            f"{item.least:,}" if item.least == item.most else f"{item.least:,} to {item.most:,}",
            number(item.clusters),
        )
        for item in report.cluster_sizes
    ]
    similar = [
        (item.kind, f"{item.least:.2f} to {item.most:.2f}", number(item.documents))
        for item in report.similarities
    ]
    return join(
        element(
            "div",
            table(
                "Groups of copies by the number of their documents, the kept one included.",
                ("kind", "documents in the group", "groups"),
                sizes,
                num_texts=2,
            ),
            table(
                "Removed documents by their Jaccard similarity to the kept one, where measured.",
                ("kind", "similarity", "documents"),
                similar,
                num_texts=2,
            )
            if similar
            else None,
            class_="columns",
        ),
        element("h3", "Example pairs"),
        element(
            "p",
            "Random pairs of each kind, and the least similar one, from shortly before their first "
            "difference; words in which the excerpts differ are marked.",
            class_="note",
        ),
        (_pair(pair) for pair in report.pairs),
    )


def _pair(pair: Pair) -> Markup:
    similarity = "not measured" if pair.jaccard is None else f"{pair.jaccard:.3f}"
    left, right = marked(pair.removed.text, pair.kept.text)
    return element(
        "article",
        element("h4", f"{pair.kind}, Jaccard {similarity}"),
        element(
            "div",
            (
                element(
                    "figure",
                    element("figcaption", f"{role}: {_place(excerpt)}"),
                    _text(excerpt, content=content),
                )
                for role, excerpt, content in (
                    ("removed", pair.removed, left),
                    ("kept", pair.kept, right),
                )
            ),
            class_="columns",
        ),
    )


def marked(one: str | None, other: str | None) -> tuple[Markup | None, Markup | None]:
    """Return two texts with the words marked in which they differ; blanks are not compared.

    Where both are cut off, that one of them goes on for longer is no difference.
    """
    if one is None or other is None:
        return None if one is None else join(one), None if other is None else join(other)
    pieces = [PIECE.findall(one), PIECE.findall(other)]
    words = [[piece.strip() for piece in side] for side in pieces]
    changes = SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    is_cut = one.endswith(ELLIPSIS) and other.endswith(ELLIPSIS)
    found: tuple[list[str], list[str]] = ([], [])
    for place, (kind, *bounds) in enumerate(changes, start=1):
        is_same = kind == "equal" or (is_cut and place == len(changes))
        for side, (start, end) in enumerate((bounds[:2], bounds[2:])):
            piece = "".join(pieces[side][start:end])
            if piece:
                found[side].append(piece if is_same else element("mark", piece))
    return join(found[0]), join(found[1])


def _distribution(histogram: Histogram, *, digits: int = 0) -> Markup:
    title = f"{histogram.quantity} of the documents, before and after"
    return join(
        LEGEND,
        element("figure", histogram_chart(histogram, title=title)),
        _summaries(histogram, digits=digits),
    )


def _summaries(histogram: Histogram, *, digits: int) -> Markup:
    sides = (("before", histogram.summary_before), ("after", histogram.summary_after))
    columns = ("", "documents", "unknown", "mean", "5 %", "25 %", "median", "75 %", "95 %")
    rows = [(side, *_summary_cells(summary, digits=digits)) for side, summary in sides]
    caption = f"{histogram.quantity}: mean and percentiles."
    return table(caption, columns, rows)


def _summary_cells(summary: Summary, *, digits: int) -> list[str]:
    shares = [summary.percentiles.get(share) for share in ("5", "25", "50", "75", "95")]
    return [
        number(summary.documents),
        number(summary.unknown),
        *(number(value, digits=digits) for value in (summary.mean, *shares)),
    ]


def _lengths(report: Report) -> Markup:
    sample = report.sample
    note = (
        "Words are counted in every document."
        if sample.is_everything
        else f"Words are counted in a random sample: {sample.documents_before:,} documents before "
        f"and {sample.documents_after:,} after."
    )
    return join(
        element("h3", "Characters"),
        _distribution(report.chars),
        element("h3", "Words"),
        element("p", note, class_="note"),
        _distribution(report.words),
    )


def _origins(origins: Origins, report: Report, *, what: str) -> Markup:
    before, after = report.funnel[0].documents, report.tokens.training_documents
    most = max((item.before for item in origins.shares), default=1) or 1
    rows = [
        (
            item.name or "(none)",
            bar(item.before / most, inner=min(item.after, most) / most),
            number(item.before),
            percent(item.before, before),
            number(item.after),
            percent(item.after, after),
        )
        for item in origins.shares
    ]
    caption = (
        f"The {len(rows)} most frequent of {origins.distinct_before:,} {what}s; "
        f"{origins.distinct_after:,} are left."
    )
    columns = (what, "", "before", "share", "after", "share")
    return join(LEGEND, table(caption, columns, rows, num_texts=2))


def _diversity(report: Report) -> Markup:
    vocabulary, domains = report.vocabulary, report.domains
    words = vocabulary.words[-1] if vocabulary.words else 0
    distinct = vocabulary.distinct[-1] if vocabulary.distinct else 0
    num_top = sum(1 for item in domains.shares if item.name)
    top_before = sum(item.before for item in domains.shares if item.name)
    top_after = sum(item.after for item in domains.shares if item.name)
    before, after = report.funnel[0].documents, report.tokens.training_documents
    rows = [
        ("distinct domains", number(domains.distinct_before), number(domains.distinct_after)),
        (f"share of the {num_top} largest", percent(top_before, before), percent(top_after, after)),
    ]
    note = (
        f"Training text, documents in random order: {words:,} words of "
        f"{vocabulary.documents:,} documents hold {distinct:,} distinct ones "
        f"({percent(distinct, words)}); letters' case does not count."
    )
    return join(
        table("How widely the documents are spread.", ("", "before", "after"), rows),
        element("h3", "Distinct words"),
        element("p", note, class_="note"),
        element(
            "figure",
            vocabulary_chart(vocabulary, title="distinct words over words of training text"),
        ),
    )


def _further_counts(report: Report) -> Markup:
    counted = (
        ("Text edits", "edit", report.edits),
        ("Personal data", "what", report.personal_data),
        ("Overlap with evaluation sets", "set", report.contamination),
    )
    tables = [
        table(f"{caption}.", (what, "count"), [(name, number(n)) for name, n in counts.items()])
        for caption, what, counts in counted
        if counts is not None
    ]
    missing = [caption.lower() for caption, _, counts in counted if counts is None]
    note = f"Not counted in this corpus: {', '.join(missing)}." if missing else None
    return join(
        element("div", tables, class_="columns") if tables else None,
        element("p", note, class_="note") if note else None,
    )


def _tokens(report: Report) -> Markup:
    tokens = report.tokens
    per_document = tokens.training / max(1, tokens.training_documents)
    rows: Sequence[tuple[str, str]] = (
        ("training tokens", number(tokens.training)),
        ("validation tokens", number(tokens.validation)),
        ("tokens per training document", number(per_document, digits=1)),
        ("entries of the vocabulary", number(tokens.vocabulary)),
        ("bytes of text per token", number(tokens.bytes_per_token, digits=2)),
        ("token_count of the source, before", number(tokens.source_before)),
        ("token_count of the source, after", number(tokens.source_after)),
    )
    caption = (
        "Tokens in the shards, and what the source itself says (its own tokenizer, or an estimate)."
    )
    return table(caption, ("", "number"), rows)


def _disk(report: Report) -> Markup:
    most = max((item.bytes for item in report.disk), default=1) or 1
    rows = [
        (item.stage, bar(item.bytes / most), number(item.artifacts), size(item.bytes))
        for item in report.disk
    ]
    return table(
        "What the artifacts of each stage take on disk.",
        ("stage", "", "artifacts", "size"),
        rows,
        num_texts=2,
    )
