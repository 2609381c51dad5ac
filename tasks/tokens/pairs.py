"""Pairs of answers as ids: two conversations that differ in what the assistant says last.

Reads tables of checked pairs (columns ``file``, ``row``, ``prompt``, ``chosen``, ``rejected``) a
batch at a time. To be learned is the last answer alone. A prompt that leaves no room for the longer
answer loses its oldest turns, in both conversations; a system message stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model.text.chat_template import Message, read_messages
from model.text.conversation import ChatEncoder, SFTExample, num_oldest, turn_text
from model.text.tokenizer import Tokenizer
from tasks.tokens.record_tables import RecordTable, Taught, table_batches

COLUMNS = ["file", "row", "prompt", "chosen", "rejected"]

Words = Sequence[int]


def teach_pairs(table: RecordTable, tokenizer: Tokenizer, *, row_tokens: int) -> Iterator[Taught]:
    """Yield the pairs of a table in order, as ids: the chosen answer's, then the rejected one's.

    Too little fits where not even the last message before the answers does.

    Args:
        row_tokens: most ids of one conversation.

    Raises:
        ArtifactError: the table cannot be read.
        SourceRecordError: it holds what is no conversation.
    """
    encoder = ChatEncoder(tokenizer)
    for batch in table_batches(table.path, columns=COLUMNS):
        columns = [batch[name].to_pylist() for name in COLUMNS]
        pairs = [
            (
                read_messages(prompt, where=f"{table.path}, {file}, row {row}"),
                [Message(role="assistant", content=answer) for answer in answers],
            )
            for file, row, prompt, *answers in zip(*columns, strict=True)
        ]
        texts = [turn_text(turn) for prompt, answers in pairs for turn in (*prompt, *answers)]
        words = iter(tokenizer.encode_batch(texts))
        for file, row, (prompt, answers) in zip(*columns[:2], pairs, strict=True):
            said = [(turn, next(words)) for turn in prompt]
            ends = [(turn, next(words)) for turn in answers]
            num_kept, lessons = _fitted(encoder, said, ends, row_tokens=row_tokens)
            is_trimmed = bool(lessons) and num_kept < len(prompt)
            yield Taught(table.file_name(file), row, lessons, is_trimmed)


def _fitted(
    encoder: ChatEncoder,
    prompt: Sequence[tuple[Message, Words]],
    answers: Sequence[tuple[Message, Words]],
    *,
    row_tokens: int,
) -> tuple[int, tuple[SFTExample, ...]]:
    """Return how many turns of a prompt stay, and the two lessons if that makes them fit."""
    head = [item for item in prompt[:1] if item[0].role == "system"]
    turns = list(prompt[len(head) :])
    while True:
        chosen, rejected = (
            encoder.encode(*zip(*head, *turns, answer, strict=True)).of_last_answer()
            for answer in answers
        )
        if max(len(chosen.ids), len(rejected.ids)) <= row_tokens:
            return len(head) + len(turns), (chosen, rejected)
        num_old = num_oldest([turn for turn, _ in turns])
        if num_old == 0:
            return len(head) + len(turns), ()
        turns = turns[num_old:]
