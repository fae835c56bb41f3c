SELECT sequence, time, step, to_step, cause, removed
FROM rollbacks FINAL
WHERE run_id = {run:String}
ORDER BY sequence
