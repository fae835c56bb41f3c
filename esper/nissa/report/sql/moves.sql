SELECT sequence, time, step, site, seed, blueprint, kernel, from_stage, stage, cause, gate
FROM seed_transitions FINAL
WHERE run_id = {run:String}
ORDER BY sequence
