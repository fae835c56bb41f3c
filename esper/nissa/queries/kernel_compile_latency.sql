-- How long does it take to compile a kernel of each blueprint?
-- run='' of this run's seeds alone; a kernel that other runs compiled too counts each time
-- Building, examining, storing and loading it. Rejected: it could not be compiled for the site that was chosen.
SELECT
    blueprint,
    countIf(NOT no_kernel) AS compiled,
    countIf(no_kernel) AS rejected,
    round(quantileExactInclusive(0.5)(seconds) * 1000, 3) AS p50_ms,
    round(quantileExactInclusive(0.95)(seconds) * 1000, 3) AS p95_ms,
    round(quantileExactInclusive(0.99)(seconds) * 1000, 3) AS p99_ms,
    round(max(seconds) * 1000, 3) AS longest_ms
FROM (
    SELECT blueprint, seconds, 0 AS no_kernel
    FROM kernels
    WHERE event = 'compiled'
        AND ({run:String} = '' OR kernel IN (SELECT kernel FROM seed_transitions WHERE run_id = {run:String}))
    UNION ALL
    SELECT made.blueprint AS blueprint, NULL AS seconds, 1 AS no_kernel
    FROM decisions AS made
    JOIN (
        SELECT run_id, decision FROM decisions WHERE outcome = 'rejected' AND startsWith(reason, 'kernel')
    ) AS refused USING (run_id, decision)
    WHERE made.action = 'germinate' AND ({run:String} = '' OR run_id = {run:String})
)
GROUP BY blueprint
ORDER BY p50_ms DESC, blueprint
