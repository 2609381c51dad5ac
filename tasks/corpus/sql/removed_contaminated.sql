-- Documents that contain text of an evaluation set, but for those removed before.
--
-- Parameters: contaminated (path).
-- Input:  contaminated.parquet: file VARCHAR, row BIGINT, id VARCHAR, evaluation_set VARCHAR,
--         item BIGINT, num_ngrams BIGINT; table removed.
-- Output: rows added to table removed, with kind 'contaminated': kept_file is the evaluation set,
--         kept_row its item.
INSERT INTO removed
SELECT
    file,
    row,
    id,
    evaluation_set AS kept_file,
    item AS kept_row,
    NULL AS kept_id,
    'contaminated' AS kind,
    NULL AS jaccard
FROM read_parquet($contaminated, hive_partitioning = false)
ANTI JOIN removed USING (file, row)
