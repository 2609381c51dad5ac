"""Report what came of a run's models, and register them."""

from __future__ import annotations

from flows.configured import Session
from flows.training import ChatModel, FinishedModel
from model.core.artifact import Artifact
from tasks.config.run import RegistryConfig
from tasks.reporting.chat import report_chat_data, report_conversation
from tasks.reporting.outcome import report_outcome
from tasks.reporting.run import report_checkpoints, report_scores, report_training
from tasks.stages.promote_candidate import promote_candidate
from tasks.stages.register_model import register_model


def report_model(session: Session, model: FinishedModel, *, registry: RegistryConfig) -> None:
    """Report a training and its scores; register the model, and promote it."""
    _report_trained(session, model.trained)
    report_scores(session.tracking, model.measured.all, session.store)
    report_checkpoints(session.tracking, model.measured.checkpoints, session.store)
    registered = register_model(
        session.tracking,
        model.exported,
        scores=model.measured.all,
        registry=registry,
        store=session.store,
    )
    promote_candidate(session.tracking, registered, registry=registry)


def report_chat_model(session: Session, made: ChatModel, *, registry: RegistryConfig) -> None:
    """Report a chat model: its conversations, the model, and how it talks."""
    report_chat_data(session.tracking, session.manifests())
    if made.finetuned != made.model.trained:
        _report_trained(session, made.finetuned)
    report_model(session, made.model, registry=registry)
    report_conversation(
        session.tracking, made.conversation, scores=made.model.measured.scores, store=session.store
    )


def _report_trained(session: Session, trained: Artifact) -> None:
    report_training(session.tracking, trained, session.store)
    report_outcome(
        session.tracking,
        trained,
        expected=session.plan.training_of(trained),
        store=session.store,
    )
