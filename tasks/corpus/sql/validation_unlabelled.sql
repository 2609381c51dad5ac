-- Texts without language or score among a window of the order in which texts are taken.
--
-- Parameters: raws (list of paths), first, last (places; the last is not in it).
-- Input:  raw files; table texts_in_order.
-- Output: document BIGINT, text VARCHAR.
WITH documents AS (
    SELECT
        file_index::BIGINT * 4294967296 + file_row_number AS document,
        text
    FROM read_parquet($raws, file_row_number = true, hive_partitioning = false)
)
SELECT
    document,
    text
FROM documents
SEMI JOIN (
    SELECT document
    FROM texts_in_order
    WHERE NOT is_labelled AND place >= $first AND place < $last
) AS wanted USING (document)
