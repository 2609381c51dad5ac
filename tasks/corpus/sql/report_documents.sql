-- The documents of a corpus before and after its cleaning, as one table.
--
-- report_place(file, row)  UBIGINT: evenly spread over files and rows, and stable; documents
--     with the lowest places are a random sample of any size.
-- report_documents(raws, files, parts, removed): what the source holds, and what training gets.
--
-- Parameters: raws (paths), files (their names, in the same order), parts (paths), removed (paths).
-- Input:  raw.parquet files; part.parquet files of the filter; tables with file and row of
--         documents that are removed.
-- Output: is_kept BOOLEAN (FALSE: a row of the source, TRUE: one of the training text), text, dump,
--         url VARCHAR; language_score DOUBLE; token_count BIGINT; place UBIGINT.
CREATE OR REPLACE TEMP MACRO report_place(file, row) AS
    md5_number_upper(row::VARCHAR || ':' || file);

CREATE OR REPLACE TEMP MACRO report_documents(raws, files, parts, removed) AS TABLE
SELECT
    FALSE AS is_kept,
    text, dump, url, language_score, token_count,
    report_place(files[file_index::BIGINT + 1], file_row_number) AS place
FROM read_parquet(raws, file_row_number = true, hive_partitioning = false)
UNION ALL
SELECT
    TRUE AS is_kept,
    text, dump, url, language_score, token_count,
    report_place(file, row) AS place
FROM read_parquet(parts, hive_partitioning = false) AS part
ANTI JOIN read_parquet(removed, hive_partitioning = false) AS gone USING (file, row);
