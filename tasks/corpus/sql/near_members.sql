-- Documents that share their key in one band with another one, removed ones excluded.
--
-- Parameters: bands (list of paths), column (name of the band's column).
-- Input:  bands.parquet files; table validation_bands (document BIGINT, one column per band); table
--         removed_documents (document BIGINT).
-- Output: rows added to table members: document BIGINT (place of the file * 2^32 + row), key UBIGINT.
INSERT INTO members
WITH keyed AS (
    SELECT
        file_index::BIGINT * 4294967296 + row AS document,
        COLUMNS(lambda name: name = $column) AS key
    FROM read_parquet($bands, hive_partitioning = false)
    UNION ALL
    SELECT
        document,
        COLUMNS(lambda name: name = $column) AS key
    FROM validation_bands
),
present AS (
    SELECT *
    FROM keyed
    ANTI JOIN removed_documents USING (document)
),
repeated AS (
    SELECT key
    FROM present
    GROUP BY key
    HAVING count(*) > 1
)
SELECT
    document,
    key
FROM present
SEMI JOIN repeated USING (key)
