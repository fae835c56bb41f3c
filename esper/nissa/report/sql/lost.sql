-- Measurements that never came.
SELECT sum(dropped) AS dropped, countIf(error != '') AS unreadable
FROM telemetry_batches FINAL
WHERE run_id = {run:String}
