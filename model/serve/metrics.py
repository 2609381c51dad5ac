"""What Prometheus is told about the server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "llm_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.prompt_tokens = Counter("llm_prompt_tokens", "Tokens read", registry=registry)
        self.written_tokens = Counter("llm_written_tokens", "Tokens written", registry=registry)
        self.cancelled = Counter(
            "llm_cancelled_answers", "Answers whose client went away", registry=registry
        )
        self.steps = Counter("llm_steps", "Steps of the engine", registry=registry)
        self.rows = Counter(
            "llm_step_rows", "Texts written for, summed over steps", registry=registry
        )
        self.first_token = Histogram(
            "llm_first_token_seconds",
            "From a request to its first token",
            buckets=SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "llm_answer_seconds",
            "From a request to the end of its answer",
            buckets=SECONDS,
            registry=registry,
        )

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Have a number read whenever somebody asks."""
        Gauge(name, help_text, registry=self._registry).set_function(read)

    def note_request(self, path: str, status: int) -> None:
        """Count an answered request."""
        self.requests.labels(path, str(status)).inc()

    def note_step(self, num_rows: int) -> None:
        """Count a step of the engine."""
        self.steps.inc()
        self.rows.inc(num_rows)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self._registry)
