SELECT intDiv(step, {width:UInt64}) * {width:UInt64} AS x, avgIfOrNull(value, isFinite(value)) AS value
FROM measurements
WHERE run_id = {run:String} AND metric = 'learning_rate' AND site = ''
GROUP BY x
ORDER BY x
