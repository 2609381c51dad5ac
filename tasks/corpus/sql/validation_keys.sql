-- Keys of the validation rows: one row for each normalised key, the first by file and row.
--
-- Parameters: validation (path).
-- Input:  validation.parquet.
-- Output: table validation_keys: file VARCHAR, row BIGINT, id VARCHAR, exact_key UUID,
--         normalised_key UUID.
CREATE OR REPLACE TEMP TABLE validation_keys AS
WITH keyed AS (
    SELECT
        file,
        row,
        id,
        exact_key(text) AS exact_key,
        normalised_key(text) AS normalised_key
    FROM read_parquet($validation, hive_partitioning = false)
)
SELECT DISTINCT ON (normalised_key) *
FROM keyed
ORDER BY file, row
