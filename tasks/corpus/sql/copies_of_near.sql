-- Copies of a document that was then removed as a near-duplicate point at the document it matches.
--
-- Input:  table removed.
-- Output: table removed, in which every kept document is kept; such rows take kind and Jaccard index
--         of the copy they name.
CREATE OR REPLACE TEMP TABLE removed AS
SELECT
    copy.file,
    copy.row,
    copy.id,
    coalesce(near.kept_file, copy.kept_file) AS kept_file,
    coalesce(near.kept_row, copy.kept_row) AS kept_row,
    CASE WHEN near.file IS NULL THEN copy.kept_id ELSE near.kept_id END AS kept_id,
    coalesce(near.kind, copy.kind) AS kind,
    CASE WHEN near.file IS NULL THEN copy.jaccard ELSE near.jaccard END AS jaccard
FROM removed AS copy
LEFT JOIN removed AS near
    ON copy.kind IN ('exact', 'normalised')
    AND copy.kept_file = near.file
    AND copy.kept_row = near.row
