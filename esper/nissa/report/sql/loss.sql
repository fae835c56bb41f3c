SELECT
    intDiv(step, {width:UInt64}) * {width:UInt64} AS x,
    minIfOrNull(value, isFinite(value)) AS low,
    maxIfOrNull(value, isFinite(value)) AS high,
    avgIfOrNull(value, isFinite(value)) AS mean,
    countIf(NOT isFinite(value)) AS broken
FROM measurements
WHERE run_id = {run:String} AND metric = 'loss' AND site = ''
GROUP BY x
ORDER BY x
