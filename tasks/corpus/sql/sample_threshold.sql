-- The last document, in sample order, that still fits in the sample.
--
-- Parameters: sample_bytes.
-- Input:  table sizes: place UUID (sample order), num_bytes BIGINT.
-- Output: one row: last_place UUID (NULL if not even the first fits), num_documents BIGINT,
--         num_bytes BIGINT.
WITH running AS (
    SELECT
        place,
        num_bytes,
        sum(num_bytes) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) AS total_bytes
    FROM sizes
)
SELECT
    max(place) AS last_place,
    count(*) AS num_documents,
    coalesce(sum(num_bytes), 0)::BIGINT AS num_bytes
FROM running
WHERE total_bytes <= $sample_bytes
