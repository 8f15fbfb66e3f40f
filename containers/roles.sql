-- An owner without login, the four roles of stepquota, and a login for each who works with it. The image
-- runs it once, as a superuser in the database POSTGRES_DB, when the data directory is made.

\getenv operator_password OPERATOR_PASSWORD
\getenv sync_password SYNC_PASSWORD
\getenv worker_password WORKER_PASSWORD

create extension pg_cron;

create role stepquota_owner nologin;
select format('grant create on database %I to stepquota_owner', current_database()) \gexec

select format('create role %I nologin', wanted.role)
  from (values ('stepquota_runtime'), ('stepquota_operator'), ('stepquota_sync'), ('stepquota_observer')) as wanted (role)
 where not exists (select from pg_catalog.pg_roles r where r.rolname = wanted.role) \gexec

create role quota_operator login password :'operator_password' in role stepquota_operator;
create role quota_sync login password :'sync_password' in role stepquota_sync;
create role quota_worker login password :'worker_password' in role stepquota_runtime;

-- pg_cron runs the jobs as the role that schedules them.
grant usage on schema cron to quota_operator;
