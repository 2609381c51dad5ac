"""Corpus library: sources, filters and duplicates over Parquet, with DuckDB and Arrow.

It knows nothing of Prefect, MLflow or torch.
"""
