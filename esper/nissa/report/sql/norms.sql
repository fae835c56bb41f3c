-- Of the sites with the largest gradients each one, of the seeds the mean.
WITH
    seeds AS (SELECT DISTINCT seed FROM seed_transitions WHERE run_id = {run:String}),
    largest AS (
        SELECT site
        FROM measurements
        WHERE run_id = {run:String} AND metric = 'gradient_norm' AND site NOT IN seeds
        GROUP BY site
        ORDER BY avgIf(value, isFinite(value)) DESC, site
        LIMIT {lines:UInt64}
    )
SELECT
    intDiv(step, {width:UInt64}) * {width:UInt64} AS x,
    if(site IN seeds, '', site) AS line,
    avgIfOrNull(value, isFinite(value)) AS value
FROM measurements
WHERE run_id = {run:String} AND metric = 'gradient_norm' AND (site IN largest OR site IN seeds)
GROUP BY x, line
ORDER BY x, line
