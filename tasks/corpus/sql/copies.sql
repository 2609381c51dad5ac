-- Documents that share their key, ranked in keep order within it: place 1 is kept.
-- Only keys are grouped; other columns are fetched for members of a group alone.
--
-- Parameters: signatures (list of paths), match ('exact' or 'normalised').
-- Input:  signatures.parquet files; table removed (these are excluded).
-- Output: table copies: key UUID, place BIGINT, file VARCHAR, row BIGINT, id VARCHAR,
--         exact_key UUID.
CREATE OR REPLACE TEMP TABLE copies AS
WITH keyed AS (
    SELECT
        *,
        CASE $match WHEN 'exact' THEN exact_key WHEN 'normalised' THEN normalised_key END AS key
    FROM read_parquet($signatures, hive_partitioning = false)
    ANTI JOIN removed USING (file, row)
),
repeated AS (
    SELECT key
    FROM keyed
    GROUP BY key
    HAVING count(*) > 1
),
members AS (
    SELECT keyed.*
    FROM keyed
    JOIN repeated USING (key)
)
SELECT
    key,
    row_number() OVER (
        PARTITION BY key
        ORDER BY language_score DESC NULLS LAST, num_chars DESC, date DESC NULLS LAST, file, row
    ) AS place,
    file,
    row,
    id,
    exact_key
FROM members
