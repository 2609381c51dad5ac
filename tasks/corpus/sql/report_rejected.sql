-- A few random documents of each reason the filter dropped documents for.
--
-- Parameters: rejected (paths), num_examples.
-- Input:  rejected.parquet files; macro report_place.
-- Output: reason VARCHAR, file VARCHAR, row BIGINT, id VARCHAR, detail VARCHAR.
WITH chosen AS (
    SELECT
        reason,
        min_by(
            {'file': file, 'row': row, 'id': id, 'detail': detail},
            report_place(file, row),
            $num_examples
        ) AS examples
    FROM read_parquet($rejected, hive_partitioning = false)
    GROUP BY reason
),
listed AS (
    SELECT reason, unnest(examples, recursive := true)
    FROM chosen
)
SELECT reason, file, row, id, detail
FROM listed
ORDER BY reason, report_place(file, row)
