-- Documents of one raw file that may be held out: with text, and in the wanted language or an
-- unknown one.
--
-- Parameters: raw (path), file_place (number of the file), language, min_language_score.
-- Input:  text, language VARCHAR; language_score DOUBLE.
-- Output: rows added to table candidates: document BIGINT (file_place * 2^32 + row), key UUID,
--         is_labelled BOOLEAN (it came with language and score).
INSERT INTO candidates
SELECT
    $file_place::BIGINT * 4294967296 + file_row_number AS document,
    normalised_key(text) AS key,
    language IS NOT NULL AND language_score IS NOT NULL AS is_labelled
FROM read_parquet($raw, file_row_number = true, hive_partitioning = false)
WHERE
    text IS NOT NULL
    AND NOT is_blank(text)
    AND has_language(language, $language)
    AND has_language_score(language, language_score, $min_language_score)
