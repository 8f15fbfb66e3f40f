-- Nothing is PUBLIC's; internal functions are nobody's; definers pin their search_path and say why.
begin;
select plan(16);
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.proacl is null$$, 'no function has PostgreSQL''s default grants');
select is_empty($$select p.oid::regprocedure from pg_proc p cross join lateral aclexplode(p.proacl) a where p.pronamespace = 'stepquota'::regnamespace and a.grantee = 0$$, 'no function is PUBLIC''s');
select is_empty($$select c.oid::regclass from pg_class c cross join lateral aclexplode(c.relacl) a where c.relnamespace = 'stepquota'::regnamespace and a.grantee = 0$$, 'no table or sequence is');
select is_empty($$select t.oid::regtype from pg_type t where t.typnamespace = 'stepquota'::regnamespace and t.typtype = 'c'
    and exists (select 1 from pg_class c where c.oid = t.typrelid and c.relkind = 'c')
    and (t.typacl is null or exists (select 1 from aclexplode(t.typacl) a where a.grantee = 0))$$, 'no composite type is');
select is_empty($$select 1 from pg_namespace n cross join lateral aclexplode(n.nspacl) a where n.nspname = 'stepquota' and a.grantee = 0$$, 'nor is the schema');
select is_empty($$select p.oid::regprocedure, a.grantee::regrole from pg_proc p cross join lateral aclexplode(p.proacl) a where p.pronamespace = 'stepquota'::regnamespace and p.proname ~ '^_' and a.grantee <> p.proowner$$, 'internal functions are granted to nobody');
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.proname !~ '^_' and p.proname not in ('grant_role', 'revoke_role')
    and not exists (select 1 from aclexplode(p.proacl) a where a.grantee <> p.proowner)$$, 'every other function is granted to some role, but those for the owner');
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.prosecdef and not coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false)$$, 'every definer pins pg_catalog, pg_temp');
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.prosecdef and p.proname ~ '^_'$$, 'no internal function is a definer');
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and p.prokind = 'p' and (p.prosecdef or p.proconfig is not null)$$, 'no procedure that commits is a definer or sets anything');
select is_empty($$select p.oid::regprocedure from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and not p.prosecdef and p.prokind = 'f' and p.proname !~ '^_' and p.proname !~ 'cron|version|_role$'$$, 'every public function but the scheduler''s and the owner''s is a definer');
-- What the roles may do, from their side.
select is_empty($$select r, t from unnest(array['stepquota_runtime', 'stepquota_sync']) r, (select c.oid::regclass t from pg_class c where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')) x
    where has_table_privilege(r, t, 'select, insert, update, delete, truncate')$$, 'runtime and sync reach no table');
select is_empty($$select r, t from unnest(array['stepquota_operator', 'stepquota_observer']) r, (select c.oid::regclass t from pg_class c where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')) x
    where has_table_privilege(r, t, 'insert, update, delete, truncate') or has_any_column_privilege(r, t, 'insert, update')$$, 'operator and observer write none');
select is_empty($$select p.proname from pg_proc p where p.pronamespace = 'stepquota'::regnamespace and has_function_privilege('stepquota_runtime', p.oid, 'execute')
    and p.proname not in ('version', 'reserve_workflow_step', 'reserve_workflow_steps', 'open_workflow_step_batch', 'close_workflow_step_batch', 'start_workflow_steps', 'resolve_workflow_step_quota', 'register_workflow_run', 'start_workflow_step', 'finish_workflow_step', 'finish_workflow_run', 'cancel_workflow_run',
      'open_workflow_run_wait', 'resolve_workflow_run_wait', 'claim_workflow_run_resumptions', 'acknowledge_workflow_run_resumption', 'workflow_run_quota_pause')$$, 'a runtime may do no more than run');
select set_eq($$select r from unnest(array['stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer']) r where has_function_privilege(r, 'stepquota.resume_workflow_run(text,text,text)', 'execute')$$, array['stepquota_operator'], 'a manual resume needs the operator''s role');
select set_eq($$select r from unnest(array['stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer']) r where has_function_privilege(r, 'stepquota.apply_stripe_object(jsonb,timestamptz)', 'execute')$$, array['stepquota_sync'], 'the mirror has one writer');
select * from finish();
rollback;
