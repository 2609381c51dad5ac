-- Every document of a bucket, in keep order: validation rows, which are always kept, come first.
--
-- Parameters: signatures (list of paths, in the order of the bands).
-- Input:  signatures.parquet files; table members; table validation_bands, table validation_rows
--         (document BIGINT, file VARCHAR, row BIGINT, id VARCHAR).
-- Output: table candidates: place BIGINT (0 is kept first), document BIGINT, file VARCHAR,
--         row BIGINT, id VARCHAR.
CREATE OR REPLACE TEMP TABLE candidates AS
WITH documents AS (
    SELECT DISTINCT document
    FROM members
),
known AS (
    SELECT
        file_index::BIGINT * 4294967296 + row AS document,
        file, row, id, language_score, num_chars, date
    FROM read_parquet($signatures, hive_partitioning = false)
    UNION ALL
    SELECT
        document, file, row, id, NULL, NULL, NULL
    FROM validation_rows
)
SELECT
    row_number() OVER (
        ORDER BY
            document >= 0,
            language_score DESC NULLS LAST, num_chars DESC, date DESC NULLS LAST, file, row
    ) - 1 AS place,
    document,
    file,
    row,
    id
FROM known
SEMI JOIN documents USING (document)
