-- The statements that schedule our jobs by hand name this database; the jobs are ours by their names.
begin;
select plan(2);
select results_eq('select * from stepquota.cron_sql()',
  format($$values (%L::text), (%L)$$, format($$select cron.schedule_in_database(%L, '*/5 * * * *', 'call stepquota.tick()', %L);$$, 'stepquota:tick@' || current_database(), current_database()),
    format($$select cron.schedule_in_database(%L, '* * * * *', 'call stepquota.watch()', %L);$$, 'stepquota:watch@' || current_database(), current_database())), 'one statement a job');
select results_eq($$select * from stepquota.list_cron_jobs('0 * * * *')$$, $$values ('stepquota:tick'::text, '0 * * * *'::text, 'call stepquota.tick()'::text), ('stepquota:watch', '* * * * *', 'call stepquota.watch()')$$, 'two jobs, the second every minute whatever the schedule');
select * from finish();
rollback;
