-- Scheduling by pg_cron, where it is. Nothing here is needed for another scheduler: that one calls
-- stepquota.tick().
--
-- Invoker's rights throughout: pg_cron runs a job as the role that scheduled it, and a function owner
-- without login would make a job that fails for ever.

-- What is to be scheduled.
create or replace function stepquota.list_cron_jobs(p_schedule text)
returns table (job_name text, schedule text, command text)
language sql
immutable
as $list_cron_jobs$
  values ('stepquota:tick', p_schedule, 'call stepquota.tick()'),
         -- Every minute, whatever the schedule: pg_cron before 1.5 knows no seconds, so the job itself goes on
         -- for just under one and does in it what becomes due.
         ('stepquota:watch', '* * * * *', 'call stepquota.watch()');
$list_cron_jobs$;

-- The statements that schedule the jobs by hand, for a pg_cron that lives in another database too.
create or replace function stepquota.cron_sql()
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $cron_sql$
  -- Jobs of one role must have different names, or those of another database would be replaced.
  select format('select cron.schedule_in_database(%L, %L, %L, %L);', j.job_name || '@' || current_database(), j.schedule,
           j.command, current_database())
    from stepquota.list_cron_jobs('*/5 * * * *') j;
$cron_sql$;

-- Each obstacle has its own SQLSTATE and says what to run. Probed in an order in which no probe can
-- fail by itself: to_regclass would raise for a schema one may not use.
-- SQLSTATEs: WQ020, WQ021, WQ022, WQ023, WQ024.
create or replace function stepquota.check_cron(p_schedule text)
returns void
language plpgsql
stable
as $check_cron$
declare
  v_version text;
  v_cron_database text;
begin
  select e.extversion into v_version from pg_catalog.pg_extension e where e.extname = 'pg_cron';
  if not found then
    -- Readable only with pg_read_all_settings; without it we know less, not nothing.
    begin
      v_cron_database := pg_catalog.current_setting('cron.database_name', true);
    exception when insufficient_privilege then
      v_cron_database := null;
    end;
    if v_cron_database is not null and v_cron_database <> '' and v_cron_database <> pg_catalog.current_database() then
      raise exception using
        errcode = 'WQ022',
        message = 'pg_cron lives in another database of this server',
        detail = pg_catalog.format('It is in %L; this is %L.', v_cron_database, pg_catalog.current_database()),
        hint = pg_catalog.format('Connect to %s and run: %s', v_cron_database,
          (select pg_catalog.string_agg(s, ' ') from stepquota.cron_sql() s));
    end if;
    raise exception using
      errcode = 'WQ020',
      message = 'pg_cron is not installed in this database',
      detail = pg_catalog.format('Database %L has no extension pg_cron.', pg_catalog.current_database()),
      hint = 'With pg_cron in shared_preload_libraries, a superuser runs: create extension pg_cron; '
        || 'Without pg_cron, let any scheduler run: call stepquota.tick();';
  end if;
  if not pg_catalog.has_schema_privilege('cron', 'usage') then
    raise exception using
      errcode = 'WQ021',
      message = 'the role may not use pg_cron',
      detail = pg_catalog.format('Role %L has no USAGE on schema cron.', current_user),
      hint = pg_catalog.format('A superuser runs: grant usage on schema cron to %I;', current_user);
  end if;
  if not (select r.rolcanlogin from pg_catalog.pg_roles r where r.rolname = current_user) then
    raise exception using
      errcode = 'WQ024',
      message = 'the role that would run the jobs cannot log in',
      detail = pg_catalog.format('pg_cron would run them as %L.', current_user),
      hint = 'Call enable_cron as a role that can log in and has stepquota_operator.';
  end if;
  if p_schedule is null
     or not (p_schedule ~ '^[[:space:]]*[1-5]?[0-9] seconds?[[:space:]]*$'
             or pg_catalog.cardinality(pg_catalog.regexp_split_to_array(pg_catalog.btrim(p_schedule), '[[:space:]]+')) = 5) then
    raise exception using
      errcode = 'WQ023',
      message = 'pg_cron does not know this schedule',
      detail = pg_catalog.format('p_schedule is %L.', p_schedule),
      hint = 'Five fields such as */5 * * * *, or with pg_cron 1.5 and newer ''30 seconds''.';
  end if;
  if p_schedule ~ 'second' and pg_catalog.string_to_array(pg_catalog.split_part(v_version, '-', 1), '.')::integer[] < array[1, 5] then
    raise exception using
      errcode = 'WQ023',
      message = 'this pg_cron is too old for a schedule in seconds',
      detail = pg_catalog.format('p_schedule is %L, pg_cron is %s; seconds need 1.5.', p_schedule, v_version),
      hint = 'Run: select * from stepquota.enable_cron(''* * * * *'');';
  end if;
end;
$check_cron$;

-- Schedules the jobs, or changes their schedule; a job that an operator has switched off stays off.
-- SQLSTATEs: WQ020, WQ021, WQ022, WQ023, WQ024.
create or replace function stepquota.enable_cron(p_schedule text default '*/5 * * * *')
returns table (job_name text, schedule text, command text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $enable_cron$
declare
  v_job record;
begin
  perform stepquota.check_cron(p_schedule);
  for v_job in select j.* from stepquota.list_cron_jobs(btrim(p_schedule)) j loop
    begin
      -- Dynamic, so that this function exists where pg_cron does not.
      execute format('select %I.schedule($1, $2, $3)', 'cron') using v_job.job_name, v_job.schedule, v_job.command;
    exception
      when insufficient_privilege then
        raise exception using
          errcode = 'WQ021',
          message = 'the role may not schedule jobs',
          detail = format('Role %L: %s.', current_user, sqlerrm),
          hint = format('A superuser runs: grant execute on function cron.schedule(text, text, text) to %I;', current_user);
      when invalid_parameter_value or internal_error then
        raise exception using
          errcode = 'WQ023',
          message = 'pg_cron does not know this schedule',
          detail = format('p_schedule is %L: %s.', p_schedule, sqlerrm),
          hint = 'Five fields such as */5 * * * *.';
    end;
    perform stepquota.record_scheduler_job(v_job.job_name, v_job.schedule, v_job.command, current_user::text);
    job_name := v_job.job_name;
    schedule := v_job.schedule;
    command := v_job.command;
    return next;
  end loop;
end;
$enable_cron$;

-- Removes our jobs and nobody else's. Where pg_cron is gone, they are gone with it.
create or replace function stepquota.disable_cron()
returns table (job_name text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $disable_cron$
declare
  v_has_cron boolean := exists (select 1 from pg_extension e where e.extname = 'pg_cron');
  v_job_id bigint;
begin
  if v_has_cron and has_schema_privilege('cron', 'usage') then
    for v_job_id, job_name in
      execute format(
        'select j.jobid, j.jobname::text from %I.job j where j.jobname = any ($1) '
        ' and j.username = current_user and j.database = current_database()', 'cron')
        using array(select j.job_name from stepquota.list_cron_jobs('') j)
    loop
      execute format('select %I.unschedule($1)', 'cron') using v_job_id;
      return next;
    end loop;
  end if;
  -- Another role's job goes on, and stays known.
  perform stepquota.record_scheduler_job(j.job_name, null, null, case when v_has_cron then current_user::text end)
     from stepquota.list_cron_jobs('') j;
end;
$disable_cron$;

-- For enable_cron and disable_cron, which run with their caller's rights: remembers a job, or forgets
-- it when the schedule is NULL, whoever scheduled it if the role is NULL too.
-- SQLSTATEs: WQ001.
create or replace function stepquota.record_scheduler_job(
  p_job_name text, p_schedule text, p_command text, p_scheduled_by text)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $record_scheduler_job$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_job_name', p_job_name);
  if p_schedule is null then
    delete from stepquota.scheduler_jobs
     where job_name = p_job_name and (p_scheduled_by is null or scheduled_by = p_scheduled_by);
    return;
  end if;
  perform stepquota._check_name('p_schedule', p_schedule);
  perform stepquota._check_name('p_command', p_command);
  perform stepquota._check_name('p_scheduled_by', p_scheduled_by);
  insert into stepquota.scheduler_jobs (job_name, schedule, command, scheduled_by, scheduled_at)
  values (p_job_name, p_schedule, p_command, p_scheduled_by, v_now)
  on conflict (job_name) do update
    set schedule = excluded.schedule, command = excluded.command,
        scheduled_by = excluded.scheduled_by, scheduled_at = excluded.scheduled_at;
end;
$record_scheduler_job$;

comment on function stepquota.list_cron_jobs(text) is 'For enable_cron: the jobs to schedule, as job_name, schedule, command.';
comment on function stepquota.check_cron(text) is 'For enable_cron: raises WQ020 to WQ024 unless pg_cron can run our jobs, as the calling role, by this schedule.';
comment on function stepquota.cron_sql() is
  'The statements that schedule our jobs, to run by hand in the database where pg_cron lives.';
comment on function stepquota.enable_cron(text) is
  'Schedules tick() with pg_cron by this schedule, and watch() every minute, as the calling role; calling again changes the schedule. Answers job_name, schedule, command. WQ020 pg_cron is missing, WQ021 not granted, WQ022 in another database, WQ023 malformed schedule or pg_cron too old for it, WQ024 the role cannot log in.';
comment on function stepquota.disable_cron() is
  'Removes the jobs that enable_cron scheduled as the calling role; answers their names. Nothing happens where there are none.';
comment on function stepquota.record_scheduler_job(text, text, text, text) is
  'For enable_cron and disable_cron: remembers or forgets a job. WQ001 for a missing name.';
