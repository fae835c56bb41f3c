-- What people call it, and what its program gave it.
SELECT
    argMax(name, sequence) AS name,
    argMax(tags, sequence) AS tags,
    argMax(notes, sequence) AS notes,
    argMin(params, sequence) AS params,
    (SELECT uniqExact(metric) FROM metrics WHERE run_id = {run:String}) AS metrics
FROM descriptions FINAL
WHERE run_id = {run:String}
