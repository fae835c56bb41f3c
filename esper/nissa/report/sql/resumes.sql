SELECT sequence, time, epoch, checkpoint, inexact, reopened, seconds
FROM resumes FINAL
WHERE run_id = {run:String}
ORDER BY sequence
