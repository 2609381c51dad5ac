"""Where raw documents come from: the hub, files here, the demo; all end as raw.parquet."""
