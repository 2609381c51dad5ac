-- Documents to select from by quality: scored, and not removed as copies.
--
-- Parameters: $scores (paths), $removed (paths of tables with file and row).
-- Input:  scores.parquet: file, row, id, domain, score; removed tables: file, row.
-- Output: table candidates (file, row, id, domain, score DOUBLE).
CREATE OR REPLACE TEMP TABLE candidates AS
SELECT
    scored.file,
    scored.row,
    scored.id,
    scored.domain,
    scored.score::DOUBLE AS score
FROM read_parquet($scores, hive_partitioning = false) AS scored
ANTI JOIN read_parquet($removed, hive_partitioning = false) AS removed
    ON scored.file = removed.file AND scored.row = removed.row
