-- How diverse are the architectures that growth has made?
-- run='' of this run alone
-- The score is the Shannon entropy, in bits, of (site, blueprint) over the seeds that were kept: 0 where all of them
-- are of one blueprint at one site, log2(kept) where no two are alike. Beside it that of blueprints and of sites alone.
SELECT
    run_id,
    countIf(stage = 'FOSSILISED') AS kept,
    uniqExactIf(blueprint, stage = 'FOSSILISED') AS blueprints,
    uniqExactIf(site, stage = 'FOSSILISED') AS sites,
    if(kept = 0, 0, round(entropyIf((site, blueprint), stage = 'FOSSILISED'), 3)) AS score,
    if(kept = 0, 0, round(entropyIf(blueprint, stage = 'FOSSILISED'), 3)) AS blueprint_bits,
    if(kept = 0, 0, round(entropyIf(site, stage = 'FOSSILISED'), 3)) AS site_bits
FROM (SELECT run_id FROM runs WHERE {run:String} = '' OR run_id = {run:String}) AS asked
LEFT JOIN (SELECT * FROM seeds WHERE {run:String} = '' OR run_id = {run:String}) AS grown USING (run_id)
GROUP BY run_id
ORDER BY score DESC, run_id
