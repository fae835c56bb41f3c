SELECT uniqExact(site) AS total, uniqExactIf(site, reason = '') AS growable
FROM sites FINAL
WHERE run_id = {run:String}
