SELECT time, task, seed, parameters, sites, optimizer, device
FROM runs FINAL
WHERE run_id = {run:String}
LIMIT 1
