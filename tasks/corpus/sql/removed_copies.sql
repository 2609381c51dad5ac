-- Every copy but the kept one of its key.
--
-- Input:  table copies.
-- Output: rows added to table removed, with kind 'exact' (equal to the kept text) or 'normalised'.
INSERT INTO removed
SELECT
    copy.file,
    copy.row,
    copy.id,
    kept.file AS kept_file,
    kept.row AS kept_row,
    kept.id AS kept_id,
    CASE WHEN copy.exact_key = kept.exact_key THEN 'exact' ELSE 'normalised' END AS kind,
    CASE WHEN copy.exact_key = kept.exact_key THEN 1.0::DOUBLE END AS jaccard
FROM copies AS copy
JOIN copies AS kept ON copy.key = kept.key AND kept.place = 1
WHERE copy.place > 1
