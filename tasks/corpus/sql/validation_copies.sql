-- Training documents with the text or words of a validation row, validation rows included.
-- Equal exact keys imply equal normalised keys, so one join finds both.
--
-- Parameters: signatures (list of paths).
-- Input:  signatures.parquet files; table validation_keys.
-- Output: table removed: file VARCHAR, row BIGINT, id VARCHAR, kept_file VARCHAR, kept_row BIGINT,
--         kept_id VARCHAR, kind VARCHAR, jaccard DOUBLE (1 for equal text, else NULL).
CREATE OR REPLACE TEMP TABLE removed AS
SELECT
    signature.file,
    signature.row,
    signature.id,
    validation.file AS kept_file,
    validation.row AS kept_row,
    validation.id AS kept_id,
    'validation' AS kind,
    CASE WHEN signature.exact_key = validation.exact_key THEN 1.0::DOUBLE END AS jaccard
FROM read_parquet($signatures, hive_partitioning = false) AS signature
JOIN validation_keys AS validation USING (normalised_key)
