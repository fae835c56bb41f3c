-- What the program logged itself: of each metric the last value of each bucket of steps.
SELECT
    metric,
    intDiv(step, {width:UInt64}) * {width:UInt64} AS x,
    argMax(value, (step, sequence)) AS value
FROM metrics
WHERE run_id = {run:String}
    AND metric IN (SELECT DISTINCT metric FROM metrics WHERE run_id = {run:String} ORDER BY metric LIMIT {lines:UInt64})
GROUP BY metric, x
ORDER BY metric, x
