-- Documents that are removed, with their reason.
--
-- Parameters: $most (documents of one domain that are kept).
-- Input:  table scored. A document without a domain is under no cap.
-- Output: file VARCHAR, row BIGINT, id VARCHAR, score DOUBLE, reason VARCHAR: low_quality, or
--         domain_cap for the lower-scored ones of a domain that has too many.
WITH crowded AS (
    SELECT domain
    FROM scored
    WHERE passed AND domain IS NOT NULL
    GROUP BY domain
    HAVING count(*) > $most
),
ranked AS (
    SELECT
        file, row, id, score,
        row_number() OVER (PARTITION BY domain ORDER BY score DESC, file, row) AS place
    FROM scored
    SEMI JOIN crowded USING (domain)
    WHERE passed
)
SELECT file, row, id, score, 'low_quality' AS reason
FROM scored
WHERE NOT passed
UNION ALL
SELECT file, row, id, score, 'domain_cap' AS reason
FROM ranked
WHERE place > $most
ORDER BY file, row
