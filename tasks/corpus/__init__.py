"""Corpus library: sources, filters and duplicates over Parquet, with DuckDB and Arrow. No Prefect, MLflow or torch."""
