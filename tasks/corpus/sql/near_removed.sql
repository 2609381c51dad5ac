-- Near-duplicates that the selection found, as rows of the table of removals.
--
-- Input:  table matches: place BIGINT, kept_place BIGINT, jaccard DOUBLE; table candidates.
-- Output: rows added to table removed, with kind 'validation' or 'near'.
INSERT INTO removed
SELECT
    document.file,
    document.row,
    document.id,
    kept.file AS kept_file,
    kept.row AS kept_row,
    kept.id AS kept_id,
    CASE WHEN kept.document < 0 THEN 'validation' ELSE 'near' END AS kind,
    matches.jaccard
FROM matches
JOIN candidates AS document USING (place)
JOIN candidates AS kept ON matches.kept_place = kept.place
