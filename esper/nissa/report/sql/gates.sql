SELECT sequence, step, site, seed, blueprint, gate, passed, reason, fold, n, mean, bound, delta, rent, ablation
FROM gates FINAL
WHERE run_id = {run:String}
ORDER BY sequence
