-- Carries out the run in :tenant and :run_id from its step :step on, until it ends or is paused.
-- :delivery is the number of the claim, or empty for a run that was not resumed.

select :step < :steps as has_step, format('root.steps[%s]', :step) as path \gset
\if :has_step
  begin;
  select s.outcome in ('started', 'already_started') as execute, s.outcome in ('quota_paused', 'held') as rests,
         s.outcome, s.used_count
    from stepquota.start_workflow_step(
      :'tenant', :'run_id', :'path', p_delivery => nullif(:'delivery', '')::bigint) s \gset
  -- Rows of your own belong here: they are there if and only if the step was started.
  commit;
  \echo :run_id :path :outcome :used_count
  \if :execute
    -- The step's work belongs here.
    select f.status from stepquota.finish_workflow_step(
      :'tenant', :'run_id', :'path', 1, 'SUCCEEDED', p_delivery => nullif(:'delivery', '')::bigint) f \gset
  \endif
  \if :rests
  \else
    select :step + 1 as step \gset
    \ir run.sql
  \endif
\else
  select f.status from stepquota.finish_workflow_run(
    :'tenant', :'run_id', 'SUCCEEDED', p_delivery => nullif(:'delivery', '')::bigint) f \gset
  \echo :run_id :status
\endif
