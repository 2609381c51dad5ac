"""One loaded model and the thread that writes for all of a server's requests.

Requests live in the event loop, the engine in a thread of its own. The thread takes what arrived
and what was cancelled, makes a step, and hands all new text back in one call. A request that is
cancelled leaves before the next step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from model.core.errors import LLMError
from model.inference.batching import BatchEngine, Finish, Writing, require_prompt
from model.inference.decoder import Decoder
from model.inference.pretrained import Pretrained
from model.inference.sampling import Sampling
from model.inference.text_stream import TextStream

logger = logging.getLogger(__name__)


class OverloadedError(LLMError):
    """As many requests wait as may."""


@dataclass(frozen=True)
class Piece:
    """What one step added to an answer; ``finish`` or ``error`` end it."""

    text: str = ""
    num_tokens: int = 0
    finish: Finish | None = None
    error: Exception | None = None


class Answer:
    """One text on its way to a client. Made by ``WritingThread.submit``."""

    def __init__(
        self, writing: Writing, text: TextStream, *, cancel: Callable[[Answer], bool]
    ) -> None:
        self.writing = writing
        self.text = text
        self.pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._cancel = cancel

    def cancel(self) -> bool:
        """Free the row of an answer nobody waits for; say no if it has ended already."""
        return self._cancel(self)


class WritingThread:
    """A model's engine, driven by a thread of its own.

    Args:
        max_rows: texts written side by side.
        max_waiting: texts that may wait for a row.
        loop: where the requests live.
        on_step: called after each step with the number of texts that it wrote for.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        *,
        max_rows: int,
        max_waiting: int,
        loop: asyncio.AbstractEventLoop,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.pretrained = pretrained
        self._decoder = Decoder(pretrained.model)
        self._max_rows = max_rows
        self._max_open = max_rows + max_waiting
        self._on_step = on_step
        self._loop = loop
        self._changed = threading.Condition()
        self._open: dict[Writing, Answer] = {}
        self._arrived: list[Answer] = []
        self._cancelled: list[Answer] = []
        self._closing = False
        self._engine = BatchEngine(self._decoder, max_rows=max_rows)
        self._thread = threading.Thread(target=self._run, name="writing", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Return how many answers have not ended."""
        return len(self._open)

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: Sequence[int],
        sampling: Sequence[Sampling],
        stops: Sequence[str] = (),
        stop_ids: Collection[int] = (),
    ) -> list[Answer]:
        """Have texts written, all of them or none.

        Args:
            max_tokens, sampling: one for each prompt.

        Raises:
            OverloadedError: they would have to wait and the queue is full.
            TokenizerError: a prompt is empty or holds an id outside of the vocabulary.
        """
        for prompt in prompts:
            require_prompt(prompt, vocab_size=self.pretrained.tokenizer.vocab_size)
        answers = [
            Answer(
                Writing(prompt, max_tokens=length, sampling=drawn, stop_ids=stop_ids),
                TextStream(self.pretrained.tokenizer, stops=stops),
                cancel=self._take_back,
            )
            for prompt, length, drawn in zip(prompts, max_tokens, sampling, strict=True)
        ]
        with self._changed:
            if len(self._open) + len(answers) > self._max_open:
                raise OverloadedError(
                    "the server writes as many answers as it can and its queue is full",
                    expected=f"at most {self._max_open} answers at once",
                    found=f"{len(self._open)} under way, {len(answers)} asked for",
                    fix="try again in a moment",
                )
            self._open |= {answer.writing: answer for answer in answers}
            self._arrived += answers
            self._changed.notify()
        return answers

    def _take_back(self, answer: Answer) -> bool:
        with self._changed:
            if not self._open.pop(answer.writing, None):
                return False
            self._cancelled.append(answer)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Let the thread end once all answers under way have ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _run(self) -> None:
        while self._take_changes():
            try:
                events = self._engine.step()
            except Exception as exc:
                logger.exception("a step failed: its answers end, the server goes on")
                self._fail(exc)
                continue
            pieces = [self._advance(writing, token) for writing, token in events]
            self._on_step(len(pieces))
            self._hand_over([pair for pair in pieces if pair])

    def _take_changes(self) -> bool:
        """Wait until there is something to write; say no when the thread is to end."""
        with self._changed:
            while not (self._arrived or self._cancelled or self._engine.is_busy):
                if self._closing:
                    return False
                self._changed.wait()
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
        for answer in arrived:
            self._engine.join(answer.writing)
        for answer in cancelled:
            self._engine.leave(answer.writing)
        return True

    def _advance(self, writing: Writing, token: int | None) -> tuple[Answer, Piece] | None:
        answer = self._open.get(writing)
        if answer is None:
            return None  # cancelled while the step ran
        text = "" if token is None else answer.text.push(token)
        finish = "stop" if answer.text.is_stopped else writing.finish
        if finish:
            self._engine.leave(writing)
            text += answer.text.close()
            with self._changed:
                self._open.pop(writing, None)
        return answer, Piece(text, int(token is not None), finish)

    def _fail(self, error: Exception) -> None:
        """End every answer with an error, and start over with an empty cache."""
        with self._changed:
            answers, self._open, self._arrived = list(self._open.values()), {}, []
        self._decoder = Decoder(self.pretrained.model)
        self._engine = BatchEngine(self._decoder, max_rows=self._max_rows)
        self._hand_over([(answer, Piece(error=error)) for answer in answers])

    def _hand_over(self, pieces: Sequence[tuple[Answer, Piece]]) -> None:
        def put() -> None:
            for answer, piece in pieces:
                answer.pieces.put_nowait(piece)

        try:
            self._loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop has closed: nobody is left to read
            logger.debug("text of a closed server is dropped")
