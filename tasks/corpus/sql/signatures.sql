-- The keys of the documents of one filtered file, in row order; text is read once.
--
-- Parameters: part (path).
-- Input:  part.parquet of the filter.
-- Output: file VARCHAR, row BIGINT, id VARCHAR, exact_key UUID, normalised_key UUID,
--         num_chars BIGINT, language_score DOUBLE, date VARCHAR.
SELECT
    file,
    row,
    id,
    exact_key(text) AS exact_key,
    normalised_key(text) AS normalised_key,
    length(text) AS num_chars,
    language_score,
    date
FROM read_parquet($part, hive_partitioning = false)
