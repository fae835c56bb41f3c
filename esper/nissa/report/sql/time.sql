-- Seconds per step over every attempt, since steps that were run again took time too.
SELECT
    avgIf(value, isFinite(value)) AS mean,
    quantileIf(0.5)(value, isFinite(value)) AS median,
    (SELECT sum(seconds) FROM boundaries FINAL WHERE run_id = {run:String}) AS boundaries
FROM telemetry
WHERE run_id = {run:String} AND metric = 'step_seconds' AND site = ''
