-- Groups of duplicates, numbered by their kept document. A validation row without a duplicate is no
-- group, nor are documents removed for an evaluation set.
--
-- Input:  table removed.
-- Output: cluster BIGINT (from 0), kind VARCHAR (of its least alike member),
--         size BIGINT (documents, the kept one included), kept_file VARCHAR, kept_row BIGINT,
--         kept_id VARCHAR.
WITH grouped AS (
    SELECT
        CASE
            WHEN bool_or(kind = 'validation') THEN 'validation'
            WHEN bool_or(kind = 'near') THEN 'near'
            WHEN bool_or(kind = 'normalised') THEN 'normalised'
            ELSE 'exact'
        END AS kind,
        1 + count(*) FILTER (WHERE (file, row) <> (kept_file, kept_row)) AS size,
        kept_file,
        kept_row,
        any_value(kept_id) AS kept_id
    FROM removed
    WHERE kind <> 'contaminated'
    GROUP BY kept_file, kept_row
)
SELECT
    row_number() OVER (ORDER BY kept_file, kept_row) - 1 AS cluster,
    kind,
    size,
    kept_file,
    kept_row,
    kept_id
FROM grouped
WHERE size > 1
ORDER BY cluster
