-- Where pg_cron is not, there is nothing to remove, and no error; what was remembered is forgotten.
begin;
select plan(3);
select is_empty('select * from stepquota.disable_cron()', 'no jobs');
select stepquota.record_scheduler_job('stepquota:tick', '* * * * *', 'call stepquota.tick()', 'someone');
select is((select count(*) from stepquota.scheduler_jobs), 1::bigint, 'a job that was once scheduled');
select stepquota.disable_cron();
select is((select count(*) from stepquota.scheduler_jobs), 0::bigint, 'is forgotten');
select * from finish();
rollback;
