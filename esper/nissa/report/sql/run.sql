SELECT time, task, seed, parameters, sites, optimizer, device, settings, settings
FROM runs FINAL
WHERE run_id = {run:String}
LIMIT 1
