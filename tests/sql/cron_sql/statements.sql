-- The statements that schedule our jobs by hand name this database; the jobs are ours by their names.
begin;
select plan(2);
select results_eq('select * from stepquota.cron_sql()',
  format($$values (%L::text)$$, format($$select cron.schedule_in_database(%L, '*/5 * * * *', 'call stepquota.tick()', %L);$$, 'stepquota:tick@' || current_database(), current_database())), 'one statement a job');
select results_eq($$select * from stepquota.list_cron_jobs('* * * * *')$$, $$values ('stepquota:tick'::text, '* * * * *'::text, 'call stepquota.tick()'::text)$$, 'one job');
select * from finish();
rollback;
