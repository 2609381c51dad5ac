"""Configuration of a whole run: one class for each flow, one group of settings for each owner."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.config.trained_model import ExportConfig, ScoreConfig
from model.core.config import Config
from model.core.errors import ConfigError
from tasks.config.chat import ChatConfig, FinetuneConfig, PreferenceConfig
from tasks.config.corpus import (
    DataConfig,
    DecontaminationConfig,
    DedupConfig,
    FilterConfig,
    PersonalDataConfig,
    QualityModelConfig,
    ShardsConfig,
    SourceConfig,
    TokenizerConfig,
    ValidationConfig,
)
from tasks.config.evaluation import EvaluationConfig
from tasks.config.run import CardConfig, RegistryConfig, ReportConfig, RunConfig, SweepConfig

Preset = Literal["demo", "sample", "gpu-hour", "full"]


class PrepareConfig(Config):
    """Everything that shapes the corpus."""

    preset: Preset
    source: SourceConfig = SourceConfig()
    validation: ValidationConfig = ValidationConfig()
    filter: FilterConfig = FilterConfig()
    personal_data: PersonalDataConfig = PersonalDataConfig()
    dedup: DedupConfig = DedupConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    report: ReportConfig = ReportConfig()
    quality_model: QualityModelConfig = QualityModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    data: DataConfig = DataConfig()
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()


class PublishConfig(PrepareConfig):
    """Everything that shapes a published corpus."""

    card: CardConfig = CardConfig()


class ChatModelConfig(PrepareConfig):
    """Everything that shapes a chat model: its base, conversations, and how it learns from them."""

    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    chat: ChatConfig = ChatConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    preference: PreferenceConfig = PreferenceConfig()

    @property
    def makes_chat_model(self) -> bool:
        """Whether the run ends in a chat model."""
        return True


class PretrainConfig(ChatModelConfig):
    """Everything that shapes a pretrained model, and the chat model that is made of it."""

    registry: RegistryConfig = RegistryConfig()
    then_finetune: bool = Field(
        default=False, description="make a chat model of the base model as well"
    )

    @model_validator(mode="after")
    def _makes_its_own_base(self) -> Self:
        if self.finetune.base:
            raise ConfigError(
                "a pretraining run fine-tunes the base model that it makes",
                expected="no finetune.base",
                found=self.finetune.base,
                where="finetune.base",
                fix="leave it out, or run the flow finetune: python -m flows.finetune",
            )
        return self

    @property
    def makes_chat_model(self) -> bool:
        """Whether the run ends in a chat model."""
        return self.then_finetune


class LadderConfig(PrepareConfig):
    """Everything that shapes a ladder of trainings; size and horizon of each come from sweep."""

    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
