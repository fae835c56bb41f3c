-- How it ended, or nothing if it was resumed after that.
SELECT sequence, time, status, step, loss, detail, test
FROM run_ends FINAL
WHERE run_id = {run:String}
    AND sequence > (SELECT max(sequence) FROM attempt_starts WHERE run_id = {run:String})
ORDER BY sequence DESC
LIMIT 1
