-- A few removed documents of each kind: random ones, and the one least like the document kept.
--
-- A validation row removed for itself is no pair.
--
-- Parameters: removed (path), num_examples.
-- Input:  removed.parquet; macro report_place.
-- Output: kind VARCHAR, jaccard DOUBLE, file VARCHAR, row BIGINT, id VARCHAR, kept_file VARCHAR,
--         kept_row BIGINT, kept_id VARCHAR; no row twice.
WITH pairs AS (
    SELECT
        kind, jaccard, file, row, id, kept_file, kept_row, kept_id,
        report_place(file, row) AS place
    FROM read_parquet($removed, hive_partitioning = false)
    WHERE (file, row) IS DISTINCT FROM (kept_file, kept_row)
),
chosen AS (
    SELECT
        kind,
        min_by(pairs, place, $num_examples) AS examples
    FROM pairs
    GROUP BY kind
    UNION ALL
    SELECT
        kind,
        min_by(pairs, (jaccard, place), 1) AS examples
    FROM pairs
    WHERE jaccard < 1
    GROUP BY kind
),
listed AS (
    SELECT DISTINCT unnest(examples) AS pair
    FROM chosen
)
SELECT
    pair.kind, pair.jaccard, pair.file, pair.row, pair.id,
    pair.kept_file, pair.kept_row, pair.kept_id
FROM listed
ORDER BY pair.kind, pair.jaccard DESC NULLS FIRST, pair.place
