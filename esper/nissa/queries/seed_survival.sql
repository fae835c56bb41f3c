-- How many seeds survive, by blueprint and by how deep their site lies in the network?
-- run='' of this run alone
-- Survival is the share that was kept of those whose fate is sealed. Depth counts the run's sites from its input, from
-- 0. A seed whose birth a rollback undid is not counted.
SELECT
    blueprint,
    depth,
    count() AS germinated,
    countIf(stage = 'FOSSILISED') AS kept,
    countIf(stage = 'CULLED') AS culled,
    germinated - kept - culled AS alive,
    round(kept / nullIf(kept + culled, 0), 3) AS survival
FROM seeds
LEFT JOIN (
    SELECT run_id, site, argMax(site_index, sequence) AS depth
    FROM sites
    WHERE {run:String} = '' OR run_id = {run:String}
    GROUP BY run_id, site
) AS places USING (run_id, site)
WHERE ({run:String} = '' OR run_id = {run:String}) AND stage != 'REMOVED'
GROUP BY blueprint, depth
ORDER BY depth, blueprint
