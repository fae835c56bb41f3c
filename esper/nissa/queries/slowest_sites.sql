-- At which sites does growth take longest, and which make the steps slow?
-- run='' of this run alone
-- limit=10 sites
-- Of the site's seeds: how many, and the mean of steps and seconds from germination to the end. `step_ms`: the mean
-- step while a seed was alive there; `step_ms_without`: while none was anywhere in the same runs.
WITH
    lives AS (
        SELECT run_id, site, born_step, born_time, ended_step, ended_time
        FROM seeds
        WHERE {run:String} = '' OR run_id = {run:String}
    ),
    changes AS (
        SELECT run_id, step, arrayFilter((site, n) -> n > 0, mapKeys(there), mapValues(there)) AS alive
        FROM (
            SELECT run_id, step, sumMap(change) OVER (PARTITION BY run_id ORDER BY step) AS there
            FROM (
                SELECT run_id, step, sumMap(map(site, change)) AS change
                FROM (
                    SELECT run_id, site, born_step AS step, toInt64(1) AS change FROM lives
                    UNION ALL
                    SELECT run_id, site, assumeNotNull(ended_step) AS step, toInt64(-1) AS change FROM lives
                    WHERE ended_step IS NOT NULL
                )
                GROUP BY run_id, step
            )
        )
    ),
    steps AS (
        SELECT run_id, alive, total, n
        FROM (
            SELECT run_id, since, sum(value) AS total, count() AS n
            FROM (
                SELECT run_id, step, value
                FROM measurements
                WHERE metric = 'step_seconds' AND ({run:String} = '' OR run_id = {run:String})
            ) AS each
            ASOF LEFT JOIN (SELECT run_id, step AS since FROM changes) AS last
                ON each.run_id = last.run_id AND each.step > last.since
            GROUP BY run_id, since
        ) AS sums
        LEFT JOIN changes ON sums.run_id = changes.run_id AND sums.since = changes.step
    ),
    timed AS (
        -- Steps without any seed count for each site of their run's seeds.
        SELECT site, sumIf(total, there) AS occupied, sumIf(n, there) AS n_occupied,
            sumIf(total, NOT there) AS free, sumIf(n, NOT there) AS n_free
        FROM (
            SELECT arrayJoin(if(empty(alive), sites, alive)) AS site, notEmpty(alive) AS there, total, n
            FROM steps
            JOIN (SELECT run_id, groupUniqArray(site) AS sites FROM lives GROUP BY run_id) AS places USING (run_id)
        )
        GROUP BY site
    )
SELECT
    site,
    count() AS seeds,
    round(avg(ended_step - born_step), 1) AS mean_steps,
    round(avg(dateDiff('microsecond', born_time, ended_time)) / 1e6, 3) AS mean_seconds,
    round(1000 * any(occupied) / nullIf(any(n_occupied), 0), 3) AS step_ms,
    round(1000 * any(free) / nullIf(any(n_free), 0), 3) AS step_ms_without
FROM lives
LEFT JOIN timed USING (site)
GROUP BY site
ORDER BY mean_seconds DESC NULLS LAST, site
LIMIT {limit:UInt32}
