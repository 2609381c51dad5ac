-- The held-out documents: of each text the first, of all texts those with the lowest seeded hash.
--
-- Parameters: seed, num_documents.
-- Input:  table candidates.
-- Output: table chosen: document BIGINT.
CREATE OR REPLACE TEMP TABLE chosen AS
WITH texts AS (
    SELECT
        key,
        min(document) AS document
    FROM candidates
    GROUP BY key
)
SELECT document
FROM texts
ORDER BY md5_number($seed::VARCHAR || ':' || key::VARCHAR)
LIMIT $num_documents
