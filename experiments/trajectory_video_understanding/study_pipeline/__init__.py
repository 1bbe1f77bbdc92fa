"""How the stages of a study are run: each only if needed, one pipeline at a time, as a job that outlives its starter.

    stage_runner       runs one stage and says the truth about how it ended
    stage_fingerprint  what a stage's result depends on
    stage_process      the process of one stage
    run_lock           one pipeline in one results directory
    pipeline_job       the pipeline as a job of its own: started, watched, stopped
    result_branch      the result files on a git branch

Each that is a program is run with `python -m study_pipeline.NAME`. All of it needs the standard library alone.
"""
