-- The order in which texts are taken: of each text the first document, of all texts those with the
-- lowest seeded hash first.
--
-- Parameters: seed.
-- Input:  table candidates.
-- Output: table texts_in_order: place BIGINT (from 0), document BIGINT, is_labelled BOOLEAN.
CREATE OR REPLACE TEMP TABLE texts_in_order AS
WITH texts AS (
    SELECT
        key,
        min(document) AS document,
        arg_min(is_labelled, document) AS is_labelled
    FROM candidates
    GROUP BY key
)
SELECT
    row_number() OVER (ORDER BY md5_number($seed::VARCHAR || ':' || key::VARCHAR)) - 1 AS place,
    document,
    is_labelled
FROM texts
