"""Acceptance test of a training preset: interrupted, resumed, and compared with an anchor.

    python -m benchmarks.accept gpu-hour
    python -m benchmarks.accept demo [--set group.field=value ...]

Runs `flows.pretrain` with the preset, asks it to stop (SIGTERM) when half of the steps are done,
runs it again to the end, and checks what is left behind: nothing lost, nothing doubled, and the
validation curve against the anchor. Data stages and trainings that are there are not made again: a
training that was finished before cannot be interrupted, so `--set train.seed=N` gives a new one.

Anchor: 3.28 nats per GPT-2 token of FineWeb in 1.704B tokens, a 124M model and tuned Muon
(modded-nanogpt, track 3, result #36). Our tokenizer differs, so the figure becomes bits per byte
with GPT-2's bytes per token on the same validation documents: counted with `--gpt2 FILE` (its
tokenizer.json), else from the source's own token_count column, which FineWeb counted with GPT-2.

Exit status: 0 every check passed, 1 one failed, 3 not run.
"""

from __future__ import annotations

import argparse
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from benchmarks.machine import describe
from flows.pretrain import PRETRAIN
from flows.settings.config import PretrainConfig
from flows.settings.overrides import parse_settings, single_settings
from flows.settings.presets import PRESETS
from flows.settings.resolve import resolve
from model.config.outputs import TrainModelOutputs
from model.core.artifact import Manifest
from model.core.store import ArtifactStore
from model.train.events import Event, read_events
from tasks.engine.launchers import num_gpus
from tasks.engine.pipeline import Step, project_root
from tasks.engine.stage import data_root
from tasks.planning.plan import duration
from tasks.reporting.progress import EventTail
from tasks.stages.train_model import TrainModel

NOT_RUN = 3
POLL_SECONDS = 0.2
ON_A_GPU = ("gpu-hour", "full")


@dataclass(frozen=True)
class Anchor:
    """What a preset has to reach.

    Args:
        num_tokens: training tokens by which it has to.
        nats_per_gpt2_token: the score, of text as GPT-2 cuts it.
        bits_per_byte: the score, if it is known as such.
        source: who reached it.
    """

    num_tokens: int
    source: str
    nats_per_gpt2_token: float | None = None
    bits_per_byte: float | None = None


ANCHORS = {
    "gpu-hour": Anchor(1_704_000_000, "modded-nanogpt, track 3, #36", nats_per_gpt2_token=3.28),
    "full": Anchor(10_000_000_000, "llm.c, 124M on 10B tokens", nats_per_gpt2_token=3.2722),
    # The project's own README, two per cent on top for another seed and another machine's rounding.
    "demo": Anchor(4_096_000, "README, demo", bits_per_byte=0.2150 * 1.02),
    "sample": Anchor(2_457_600, "a uniform guess among bytes", bits_per_byte=8.0),
}


@dataclass(frozen=True)
class Check:
    """One verdict."""

    name: str
    passed: bool
    found: str
    expected: str

    def text(self) -> str:
        """Return the verdict as a line."""
        word = "PASS" if self.passed else "FAIL"
        return f"{word}  {self.name}: {self.found} (expected {self.expected})"


def main() -> int:
    """Run, check, print; return the exit status."""
    options = _parse()
    if options.preset in ON_A_GPU and not num_gpus():
        print(f"{options.preset}: not run: needs a CUDA device")
        return NOT_RUN
    # What another run trained proves nothing; what is judged is pretraining.
    settings = [*options.set, "train.extend=never", "then_finetune=false"]
    overrides = parse_settings(settings, alone=single_settings(PretrainConfig))
    store = ArtifactStore(data_root())
    run = resolve(options.preset, overrides, kind=PretrainConfig, store=store)
    (step,) = (
        item for item in PRETRAIN.plan(run, store).steps if isinstance(item.config, TrainModel)
    )
    if step.status.state == "complete":
        print(f"{step.artifact.relative_path} is there already: not run; set another train.seed")
        return NOT_RUN
    print(describe())
    started = time.monotonic()
    stopped_at = interrupt(step, store, options.preset, settings)
    code = subprocess.run(_command(options.preset, settings), cwd=project_root(), check=False)
    if code.returncode:
        print(f"FAIL  the second run ended with exit code {code.returncode}")
        return 1
    manifest = store.read_manifest(step.artifact)
    events = read_events(TrainModelOutputs(store.path(step.artifact)).events)
    anchor = ANCHORS[options.preset]
    bits, source = anchor_bits_per_byte(anchor, _validation_file(store, manifest), options.gpt2)
    checks = [
        *resume_checks(raw_events(store.path(step.artifact)), events, stopped_at=stopped_at),
        *curve_checks(events, bits_per_byte=bits, num_tokens=anchor.num_tokens),
    ]
    print(f"\n{options.preset}, {duration(time.monotonic() - started)} with the interruption")
    print(f"anchor: {anchor.source}; {bits:.4f} bits per byte ({source})")
    speed = TrainModelOutputs.facts_of(manifest).tokens_per_second
    print(f"speed: {speed:,.0f} tokens/s{_mfu(manifest)}")
    print("\n".join(check.text() for check in checks))
    passed = all(check.passed for check in checks)
    print("verdict:", "accepted" if passed else "not accepted")
    return 0 if passed else 1


def interrupt(step: Step, store: ArtifactStore, preset: str, settings: Sequence[str]) -> int:
    """Run the flow until half of the steps are done, ask it to stop, and return that step."""
    assert isinstance(step.config, TrainModel)
    assert step.config.train.steps
    tail = EventTail(TrainModelOutputs(store.work_path(step.artifact)).events)
    done = 0
    process = subprocess.Popen(_command(preset, settings), cwd=project_root())
    try:
        while process.poll() is None and done < step.config.train.steps // 2:
            time.sleep(POLL_SECONDS)
            done = max([done, *(event["step"] for event in tail.read())])
        process.send_signal(signal.SIGTERM)
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
    return done


def raw_events(directory: Path) -> list[Event]:
    """Return every event ever recorded, those of repeated steps too."""
    return EventTail(TrainModelOutputs(directory).events).read()


def resume_checks(raw: Sequence[Event], events: Sequence[Event], *, stopped_at: int) -> list[Check]:
    """Check that the interruption lost nothing and doubled nothing.

    Args:
        raw: every line of events.jsonl.
        events: those that hold.
        stopped_at: last step seen before the signal.
    """
    ends = [event for event in raw if event["kind"] == "end"]
    resumes = [event["step"] for event in raw if event["kind"] == "resume"]
    saved = ends[0]["step"] if ends and ends[0].get("state") == "interrupted" else None
    tokens = [event["train/tokens"] for event in events if event["kind"] == "train"]
    return [
        Check(
            "stopped by a signal, work saved",
            saved is not None and saved >= stopped_at,
            f"saved at step {saved}",
            f"step {stopped_at} or later",
        ),
        Check("resumed where it stopped", resumes == [saved], f"{resumes}", f"[{saved}]"),
        Check(
            "no step twice, none lost",
            tokens == sorted(set(tokens)) and ends[-1].get("state") == "complete",
            f"{len(tokens)} points, {len(set(tokens))} different",
            "tokens rise from point to point, to the end",
        ),
    ]


def curve_checks(events: Sequence[Event], *, bits_per_byte: float, num_tokens: int) -> list[Check]:
    """Check the validation curve against an anchor, a batch of tolerance on its tokens."""
    tokens = {event["step"]: event["train/tokens"] for event in events if "train/tokens" in event}
    batch = max(tokens.values()) // max(tokens)
    curve = [
        (event["step"] * batch, event["validation/bits_per_byte"])
        for event in events
        if event["kind"] == "validation"
    ]
    reached = next((place for place, bits in curve if bits <= bits_per_byte), None)
    shown = f"{reached:,} tokens" if reached else f"never; {curve[-1][1]:.4f} at the end"
    finite = all(math.isfinite(bits) for _, bits in curve)
    return [
        Check(
            "validation falls from first to last",
            finite and (len(curve) == 1 or curve[-1][1] < curve[0][1]),
            f"{curve[0][1]:.4f} to {curve[-1][1]:.4f} bits per byte",
            "a lower end",
        ),
        Check(
            "anchor reached",
            reached is not None and reached < num_tokens + batch,
            shown,
            f"{bits_per_byte:.4f} bits per byte within {num_tokens:,} tokens",
        ),
    ]


def anchor_bits_per_byte(anchor: Anchor, validation: Path, gpt2: Path | None) -> tuple[float, str]:
    """Return an anchor's score in bits per byte, and how it was converted."""
    if anchor.nats_per_gpt2_token is None:
        assert anchor.bits_per_byte
        return anchor.bits_per_byte, "as it is"
    table = pq.read_table(validation, columns=["text", "token_count"])
    texts = table["text"].to_pylist()
    if gpt2:
        encoded = Tokenizer.from_file(str(gpt2)).encode_batch(texts, add_special_tokens=False)
        num_tokens, source = sum(len(item.ids) for item in encoded), f"counted with {gpt2.name}"
    else:
        num_tokens, source = sum(table["token_count"].to_pylist()), "by the source's token_count"
    bytes_per_token = sum(len(text.encode()) for text in texts) / num_tokens
    bits = anchor.nats_per_gpt2_token / math.log(2) / bytes_per_token
    source = f"{anchor.nats_per_gpt2_token} nats at {bytes_per_token:.3f} bytes per token, {source}"
    return bits, source


def _validation_file(store: ArtifactStore, trained: Manifest) -> Path:
    """Return the validation documents behind the rows a training was scored on."""
    (shards,) = trained.derivation.inputs["validation"]
    (tokens,) = store.read_manifest(shards).derivation.inputs["tokens"]
    (documents,) = store.read_manifest(tokens).derivation.inputs["documents"]
    return store.path(documents) / "validation.parquet"


def _mfu(manifest: Manifest) -> str:
    mfu = TrainModelOutputs.facts_of(manifest).metrics.get("perf/mfu")
    return f", {mfu:.1%} of the device's peak" if mfu else ""


def _command(preset: str, settings: Sequence[str]) -> list[str]:
    base_alone = ("then_finetune=false", *settings)
    chosen = [part for setting in base_alone for part in ("--set", setting)]
    return [sys.executable, "-m", "flows.pretrain", "--preset", preset, *chosen]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE")
    parser.add_argument("--gpt2", type=Path, help="GPT-2's tokenizer.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
