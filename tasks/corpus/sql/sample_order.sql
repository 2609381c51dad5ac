-- The seeded random order in which documents are taken into a sample.
--
-- sample_order(seed, file, row)  UUID: evenly spread over files and rows, stable.
CREATE OR REPLACE TEMP MACRO sample_order(seed, file, row) AS
    md5_number(seed::VARCHAR || ':' || row::VARCHAR || ':' || file)::UUID
