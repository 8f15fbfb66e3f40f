-- A worker in psql: it goes on with every run that was resumed, and ends when there is none.
--
--   psql --file=worker.sql postgresql://user@host/database
--
-- Runs have as many steps as the variable steps says, 3 if it is not set: psql --set=steps=5 ...

\set ON_ERROR_STOP on
\if :{?steps}
\else
  \set steps 3
\endif
\if :{?worker}
\else
  \set worker psql
\endif

-- Each claim is a transaction of its own.
select count(*) > 0 as has_run, min(c.tenant) as tenant, min(c.run_id) as run_id, min(c.delivery) as delivery
  from stepquota.claim_workflow_run_resumptions(:'worker', 1) c \gset
\if :has_run
  \set step 0
  \ir run.sql
  \ir worker.sql
\endif
