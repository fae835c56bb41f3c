-- What the run's kernels cost.
SELECT kernel, any(parameters) AS parameters, any(bytes) AS bytes, any(seconds) AS seconds
FROM kernels FINAL
WHERE event = 'compiled' AND kernel IN (SELECT kernel FROM seed_transitions WHERE run_id = {run:String})
GROUP BY kernel
