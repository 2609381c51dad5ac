-- The chosen documents with their text. The scan streams past a set of document numbers; only the
-- chosen rows are sorted.
--
-- Parameters: raws (list of paths), files (list of their names, in the same order).
-- Input:  raw files; table chosen.
-- Output: FineWeb's nine columns, file VARCHAR, row BIGINT, ordered by file and row.
WITH documents AS (
    SELECT
        text, id, dump, url, date, file_path, language, language_score, token_count,
        file_index::BIGINT AS file_place,
        file_row_number AS row
    FROM read_parquet($raws, file_row_number = true, hive_partitioning = false)
)
SELECT
    documents.* EXCLUDE (file_place, row),
    $files[file_place + 1] AS file,
    row
FROM documents
SEMI JOIN chosen ON file_place * 4294967296 + row = chosen.document
ORDER BY file, row
