"""Configuration of the data stages: sources, filters, deduplication, tokenizer, shards."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from model.core.config import RUNTIME_ONLY, Config
from model.core.errors import ConfigError

EDU_LABELS_REVISION = "72df4c92fb1b48beceb16016e8f695ec40a6c3a5"  # fineweb-edu-llama3-annotations
FINEWEB_REVISION = "9bb295ddab0e05d785b879661af7260fed5140fc"  # HuggingFaceFW/fineweb


class SourceConfig(Config):
    """Where raw documents come from. Only the fields of the chosen kind matter to a result."""

    kind: Literal["hub", "local", "demo"] = Field(
        default="hub",
        description="hub: a Hugging Face data set; local: files here; demo: generated stories",
    )
    repo: str = Field(default="HuggingFaceFW/fineweb", description="hub: data set repository")
    revision: str = Field(
        default=FINEWEB_REVISION,
        description="hub: commit (40 hex digits), or a branch that is looked up",
    )
    files: str = Field(
        default="sample/10BT/*.parquet", description="hub: glob of files in the repository"
    )
    path: str = Field(
        default="", description="local: a file, a folder, or a glob of parquet or jsonl files"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="hub, local: FineWeb column -> column of the files, where they differ",
    )
    on_broken_record: Literal["fail", "skip"] = Field(
        default="fail",
        description="hub, local: a row without valid text, or a line that is no such JSON, fails "
        "or is counted; files that have FineWeb's columns stay as they are",
    )
    max_documents: int | None = Field(
        default=None,
        gt=0,
        description="hub, local: only the first so many documents, in file order",
    )
    demo_documents: int = Field(default=24_000, gt=0, description="demo: documents over all shards")
    demo_shards: int = Field(default=3, gt=0, description="demo: shards")

    @model_validator(mode="after")
    def _path_is_that_of_a_local_source(self) -> Self:
        if self.kind == "local" and not self.path:
            raise ConfigError(
                "a local source needs a path",
                expected="source.path=<folder, file or glob>",
                found="source.kind=local and no source.path",
                where="source.kind and source.path",
                fix="set source.path, or choose another source.kind",
            )
        if self.kind != "local" and self.path:
            raise ConfigError(
                "only a local source has a path",
                expected="source.kind=local beside source.path",
                found=f"source.kind={self.kind} and source.path={self.path}",
                where="source.kind and source.path",
                fix="set source.kind=local, or leave source.path out",
            )
        return self

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the bytes of one file: never its address on this machine.

        What rewrites a hub file counts only where it is set: files of FineWeb are never rewritten.
        """
        fields = {
            "hub": {"kind", "repo", "revision"} | ({"columns"} if self.columns else set()),
            "local": {"kind", "columns", "on_broken_record"},
            "demo": {"kind"},
        }
        if self.on_broken_record != "fail":
            fields["hub"].add("on_broken_record")
        return self.model_dump(mode="json", include=fields[self.kind])


class ValidationConfig(Config):
    """The fixed rows that every model of a source is measured on."""

    num_documents: int = Field(default=2_000, gt=0, description="documents held out")
    num_files: Annotated[int, RUNTIME_ONLY] = Field(
        default=1,
        gt=0,
        description="taken from the first so many files, so that more files change nothing",
    )


class FilterConfig(Config):
    """Which raw documents stay, and which of their lines."""

    profile: Literal["light", "fineweb", "strict"] = Field(
        default="light",
        description="light: language and length, for text that was filtered before, such as "
        "FineWeb's own; fineweb: also the Gopher, C4 and FineWeb rules, with C4's line edits "
        "(arXiv 2406.17557); strict: also C4's rule that lines end in terminal punctuation",
    )
    language: str = Field(default="en", description="language label a document must have")
    score_language: Literal["missing", "never"] = Field(
        default="missing",
        description="missing: documents without language or score get both from lid.176.ftz; "
        "never: they are not judged by it",
    )
    min_language_score: float = Field(
        default=0.65,
        ge=0,
        le=1,
        description="least language score; 0.65 is FineWeb's own (arXiv 2406.17557)",
    )
    min_words: int = Field(
        default=50,
        ge=0,
        description="fewest words, split at white space; 50 is Gopher's (arXiv 2112.11446)",
    )
    max_words: int = Field(default=100_000, gt=0, description="most words; Gopher's limit")
    max_dropped_frac: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.95,
        gt=0,
        le=1,
        description="a shard that loses more than this share fails the run",
    )

    @model_validator(mode="after")
    def _leaves_room_for_documents(self) -> Self:
        if self.min_words > self.max_words:
            raise ConfigError(
                "no document can have so many and so few words at once",
                expected="filter.min_words <= filter.max_words",
                found=f"{self.min_words} > {self.max_words}",
                where="filter.min_words and filter.max_words",
                fix="lower the first or raise the second",
            )
        return self


class SignatureConfig(Config):
    """The MinHash keys that find documents worth comparing."""

    shingle_words: int = Field(
        default=5, gt=0, description="words per shingle; FineWeb's (arXiv 2406.17557)"
    )
    bands: int = Field(
        default=14,
        gt=0,
        le=100,
        description="bands: documents that agree in one are compared; FineWeb's",
    )
    band_rows: int = Field(
        default=8, gt=0, le=100, description="MinHash values that make up a band; FineWeb's"
    )


PersonalDataKind = Literal["email", "ip_address", "credit_card", "ssn", "phone", "secret_key"]


class PersonalDataConfig(Config):
    """What happens to personal data in kept text.

    Reported by default, not masked: FineWeb's e-mail and IP addresses are masked already, what is
    left is rare, and a mask cannot be taken back, so it wants a decision and its count.
    """

    action: Literal["keep", "report", "mask"] = Field(
        default="report",
        description="keep: not looked for; report: counted; mask: placeholders take its place",
    )
    kinds: tuple[PersonalDataKind, ...] = Field(
        default=("email", "ip_address", "credit_card", "ssn", "phone", "secret_key"),
        description="what is looked for; e-mail and IP addresses are FineWeb's two",
    )

    def semantic(self) -> dict[str, Any]:
        """Return what changes text: counting, or not, leaves it and all that follows as it is."""
        return super().semantic() if self.action == "mask" else {}


class DedupConfig(SignatureConfig):
    """Which documents count as copies of one another."""

    match: Literal["none", "exact", "normalised", "near"] = Field(
        default="near",
        description="equal text; or also equal words, whatever case, white space and punctuation; "
        "or also texts that share most of their shingles",
    )
    min_jaccard: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="near: least share of shingles in common (Jaccard index), verified exactly",
    )
    max_removed_frac: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.9, gt=0, le=1, description="removing more than this share fails the run"
    )

    def signatures(self) -> SignatureConfig:
        """Return the part that shapes the signatures of a file."""
        return SignatureConfig(
            shingle_words=self.shingle_words, bands=self.bands, band_rows=self.band_rows
        )


class DecontaminationConfig(Config):
    """Which evaluation sets training documents must not hold text of."""

    sets: Annotated[dict[str, str], RUNTIME_ONLY] = Field(
        default_factory=dict,
        description="name of a set -> its parquet file, or a folder or glob of them; "
        "hub:owner/name@commit:glob for one on the hub",
    )
    ngram_words: int = Field(
        default=13,
        gt=0,
        description="words in a row that a document must share with an item; GPT-3's "
        "(arXiv 2005.14165)",
    )
    min_ngrams: int = Field(
        default=1, gt=0, description="fewest such runs of words that make it contaminated"
    )


class QualityModelConfig(Config):
    """Documents chosen by a small model that learns from labelled ones. Off unless asked for."""

    select: Literal["none", "threshold", "top_fraction"] = Field(
        default="none",
        description="none: no model at all; or documents that score enough; or the best share",
    )
    min_score: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="threshold: least probability of a good label, as frequent as in the labels",
    )
    top_frac: float = Field(
        default=0.5, gt=0, le=1, description="top_fraction: share of the documents that stays"
    )
    max_domain_frac: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="no site makes up more than this share of what stays; 1 = no limit",
    )
    labels: Literal["hub", "local"] = Field(
        default="hub", description="labelled documents: a Hugging Face data set, or files here"
    )
    repo: str = Field(
        default="HuggingFaceFW/fineweb-edu-llama3-annotations",
        description="hub: data set repository; FineWeb-Edu's classifier learned from this one",
    )
    revision: str = Field(
        default=EDU_LABELS_REVISION, description="hub: commit (40 hex digits), or a branch"
    )
    files: str = Field(default="data/*.parquet", description="hub: glob of files in the repository")
    path: str = Field(default="", description="local: a parquet file, a folder, or a glob")
    text_column: str = Field(default="text", description="column of the documents")
    label_column: str = Field(
        default="score", description="column of their labels: numbers or booleans"
    )
    min_good_label: float = Field(
        default=3.0,
        description="least label of a good document; FineWeb-Edu keeps 3 of 0-5 (arXiv 2406.17557)",
    )
    max_labelled: int = Field(
        default=50_000, gt=0, description="labelled documents used, evenly spread over the files"
    )
    heldout_frac: float = Field(
        default=0.1, gt=0, lt=1, description="share of them that only measures the model"
    )
    feature_bits: int = Field(
        default=18, ge=8, le=24, description="words and word pairs are hashed to 2^bits weights"
    )
    epochs: int = Field(default=4, gt=0, description="passes over the labelled documents")
    min_auc: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.6, ge=0, le=1, description="a model that ranks held-out documents worse fails"
    )
    max_removed_frac: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.95, gt=0, le=1, description="removing more than this share fails the run"
    )


class TokenizerConfig(Config):
    """The byte-level BPE vocabulary."""

    vocab_size: int = Field(
        default=32_768,
        ge=288,
        le=65_536,
        description="entries including 256 bytes and 32 specials; ids are stored as uint16",
    )
    sample_bytes: int = Field(
        default=1_000_000_000, gt=0, description="at most this much text is trained on"
    )
    max_document_bytes: int = Field(
        default=10_000, gt=0, description="of one document, at most so many bytes are sampled"
    )
    num_files: Annotated[int, RUNTIME_ONLY] = Field(
        default=4,
        gt=0,
        description="sampled from the first so many files, so that more files change nothing",
    )


Packing = Literal["best_fit", "concat"]


class ShardsConfig(Config):
    """How token shards and training rows are cut."""

    shard_tokens: int = Field(
        default=50_000_000, gt=0, description="tokens per shard, about: two bytes each"
    )
    packing: Packing = Field(
        default="best_fit",
        description="training rows. best_fit: whole documents, or full pieces of longer ones; "
        "concat: one stream of tokens, cut anywhere, as validation rows always are",
    )


class DataConfig(Config):
    """Randomness of the data: sampling, split, shuffle."""

    seed: int = Field(default=1, ge=0, lt=2**32, description="seed of sampling, split and shuffle")
