"""Configuration of the data stages and of the run as a whole: pydantic only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from model.config import RUNTIME_ONLY, Config

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

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the bytes of one file: never its address on this machine.

        What rewrites a hub file counts only where it is set, so that files of FineWeb, which are
        never rewritten, keep the keys they always had.
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
    """Which raw documents stay."""

    language: str = Field(default="en", description="language label a document must have")
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


class DedupConfig(Config):
    """Which documents count as copies of one another."""

    match: Literal["none", "exact", "normalised"] = Field(
        default="normalised",
        description="equal text; or also equal words, whatever case, white space and punctuation",
    )
    max_removed_frac: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.9, gt=0, le=1, description="removing more than this share fails the run"
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


class ShardsConfig(Config):
    """How token shards and training rows are cut."""

    shard_tokens: int = Field(
        default=50_000_000, gt=0, description="tokens per shard, about: two bytes each"
    )


class DataConfig(Config):
    """Randomness of the data: sampling, split, shuffle."""

    seed: int = Field(default=1, ge=0, lt=2**32, description="seed of sampling, split and shuffle")


class RegistryConfig(Config):
    """How a finished model is filed."""

    name: str = Field(
        default="llm-base",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="registered model",
    )
    alias: str = Field(default="candidate", min_length=1, description="alias the new version takes")


class RunConfig(Config):
    """How the pipeline runs on this machine. Nothing here changes a result."""

    task_runner: Annotated[Literal["processes", "threads", "ray", "dask"], RUNTIME_ONLY] = Field(
        default="processes",
        description="what maps shards; ray and dask are optional extras and start a cluster on "
        "this machine, or use the one of RAY_ADDRESS or DASK_SCHEDULER_ADDRESS: its workers need "
        "this project and the data root at the same paths, on shared storage that locks files, "
        "and a Prefect server that they reach",
    )
    workers: Annotated[int, RUNTIME_ONLY] = Field(
        default=0, ge=0, description="shards at once; 0 = one per core"
    )
    memory_gb: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.0,
        ge=0,
        description="memory all data stages may use together; 0 = half of the machine's",
    )
    experiment: Annotated[str, RUNTIME_ONLY] = Field(
        default="llm-from-scratch", min_length=1, description="MLflow experiment"
    )
