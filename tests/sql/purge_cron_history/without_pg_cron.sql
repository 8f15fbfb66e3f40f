-- Where pg_cron is missing there is no history.
begin;
select plan(2);
select set_clock('2026-04-15Z');
select is(stepquota.purge_cron_history(), 0::bigint, 'nothing to do');
select is(stepquota.get_cron_history_cutoff(), '2026-04-08Z'::timestamptz, 'what is older than a week may go');
select * from finish();
rollback;
