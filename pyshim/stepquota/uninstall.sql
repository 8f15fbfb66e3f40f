-- Takes stepquota out of this database: the jobs of pg_cron first, or they would fail for ever, then both
-- schemas with all that is in them. One transaction. Stops, with nothing done, where something of somebody
-- else's would go with it. Roles stay, they are the whole server's.

do $uninstall$
declare
  -- All names under which our jobs were ever scheduled; by cron_sql() with the database's name behind.
  v_jobs constant text[] := array['stepquota:tick', 'stepquota:watch'];
  v_all_jobs text[] := v_jobs || array(select j.name || '@' || pg_catalog.current_database() from pg_catalog.unnest(v_jobs) as j (name));
  v_schemas constant oid[] := array(
    select n.oid from pg_catalog.pg_namespace n where n.nspname in ('stepquota', 'stepquota_migrations'));
  v_found text;
  v_job record;
begin
  if v_schemas = '{}' then
    raise exception using
      errcode = 'invalid_schema_name',
      message = pg_catalog.format('stepquota is not installed in the database %s', pg_catalog.current_database());
  end if;

  if exists (select from pg_catalog.pg_extension e where e.extname = 'stepquota') then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = pg_catalog.format('stepquota is an extension in the database %s', pg_catalog.current_database()),
      hint = 'Remove its jobs first if there are any: select * from stepquota.disable_cron(). Then: drop extension stepquota cascade.';
  end if;

  -- What others have made and would go with our schemas: it depends on something in them, or is in them.
  with recursive ours (class, object) as (
    select d.classid, d.objid
      from pg_catalog.pg_depend d
     where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = any (v_schemas)
    union
    select d.classid, d.objid
      from ours o
      join pg_catalog.pg_depend d on d.refclassid = o.class and d.refobjid = o.object
     where d.deptype in ('a', 'i', 'P', 'S')
  ),
  others (name) as (
    select pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
      from ours o
      join pg_catalog.pg_depend d on d.refclassid = o.class and d.refobjid = o.object
     where d.deptype = 'n'
       and (d.classid, d.objid) not in (select w.class, w.object from ours w)
    union
    select pg_catalog.format('%s, which belongs to %s',
             pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0),
             pg_catalog.pg_get_userbyid(c.relowner))
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.oid = any (v_schemas) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relowner <> n.nspowner
    union
    -- A publication of one of our tables loses it without a word.
    select pg_catalog.format('publication %I', p.pubname)
      from pg_catalog.pg_publication_rel r
      join pg_catalog.pg_class c on c.oid = r.prrelid and c.relnamespace = any (v_schemas)
      join pg_catalog.pg_publication p on p.oid = r.prpubid
  )
  select pg_catalog.string_agg(o.name, '; ' order by o.name) into v_found from others o;
  if v_found is not null then
    raise exception using
      errcode = 'dependent_objects_still_exist',
      message = 'other objects depend on stepquota, or are in its schemas',
      detail = v_found,
      hint = 'Drop or move them first. Nothing was done.';
  end if;

  if exists (select from pg_catalog.pg_extension e where e.extname = 'pg_cron')
     and pg_catalog.has_schema_privilege('cron', 'usage') then
    for v_job in
      -- Dynamic, since there need be no such table. It shows a role its own jobs, a superuser all.
      execute 'select j.jobid from cron.job j where j.jobname = any ($1) and j.database = pg_catalog.current_database()'
        using v_all_jobs
    loop
      execute 'select cron.unschedule($1)' using v_job.jobid;
    end loop;
  end if;
  -- Jobs that this role could not see; a job of a database without pg_cron is gone with it.
  if pg_catalog.to_regclass('stepquota.scheduler_jobs') is not null
     and exists (select from pg_catalog.pg_extension e where e.extname = 'pg_cron')
     and not (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = session_user) then
    execute 'select pg_catalog.string_agg(distinct s.scheduled_by, '', '') from stepquota.scheduler_jobs s where s.scheduled_by <> session_user'
      into v_found;
    if v_found is not null then
      raise exception using
        errcode = 'dependent_objects_still_exist',
        message = 'another role has scheduled jobs of stepquota',
        detail = pg_catalog.format('They are jobs of %s, which %s can neither see nor remove.', v_found, session_user),
        hint = pg_catalog.format('As %s: select * from stepquota.disable_cron(); or uninstall as a superuser. Nothing was done.', v_found);
    end if;
  end if;

  drop schema if exists stepquota cascade;
  drop schema if exists stepquota_migrations cascade;
end;
$uninstall$;
