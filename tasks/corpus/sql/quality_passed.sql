-- Whether the score of each candidate is high enough.
--
-- Parameters: $cut_score, $cut_file, $cut_row: the last document that passes. Of those with its
--             score, later ones by file and row do not; $cut_file NULL lets all of them pass.
-- Input:  table candidates.
-- Output: table scored: the columns of candidates, and passed BOOLEAN.
CREATE OR REPLACE TEMP TABLE scored AS
SELECT
    *,
    score > $cut_score
    OR (
        score = $cut_score
        AND ($cut_file IS NULL OR (file, row) <= ($cut_file, $cut_row))
    ) AS passed
FROM candidates
