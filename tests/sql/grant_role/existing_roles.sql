-- A role that is there already gets the rights of one of the four: by membership, or directly where the
-- four are not to be had; it keeps them over a load, and loses them when they are taken back.
begin;
select plan(28);
create function may(p_role text, p_function text) returns boolean language sql as $$
  select bool_or(has_function_privilege(p_role, p.oid, 'execute')) from pg_proc p
   where p.pronamespace = 'stepquota'::regnamespace and p.proname = p_function $$;
create function load_again() returns void language sql as $$ select stepquota._restate_role_grants() $$;
create role "test Worker" login;
create role test_stiff login noinherit;
-- By membership.
select is(stepquota.grant_role('test Worker', 'runtime'), 'membership', 'where the four are, it is a membership');
select ok(pg_has_role('test Worker', 'stepquota_runtime', 'usage'), 'which the role has');
select ok(not has_schema_privilege('test Worker', 'stepquota', 'usage') = false, 'it reaches the schema');
select ok(may('test Worker', 'start_workflow_step'), 'it may start steps');
select ok(not may('test Worker', 'set_policy'), 'and no more than a runtime');
select is(stepquota.grant_role('test Worker', 'runtime'), 'membership', 'once more is the same');
select is((select format('%s %s %s %s', role_name, rights, given_as, granted_by) from stepquota.role_grants),
  format('test Worker runtime membership %s', session_user), 'it is remembered');
select is(stepquota.revoke_role('test Worker', 'operator'), false, 'what was not given cannot be taken back');
select is(stepquota.revoke_role('test Worker', 'runtime'), true, 'what was given can');
select ok(not may('test Worker', 'start_workflow_step'), 'and is gone');
-- Directly: a role that does not inherit would have nothing of a membership.
select is(stepquota.grant_role('test_stiff', 'runtime'), 'direct', 'a role without INHERIT gets the rights itself');
select is(stepquota.grant_role('test_stiff', 'observer'), 'direct', 'several kinds too');
select ok(may('test_stiff', 'start_workflow_step') and may('test_stiff', 'verify_all'), 'both are there');
select ok(has_table_privilege('test_stiff', 'stepquota.workflow_runs', 'select'), 'an observer reads the tables');
select ok(not has_table_privilege('test_stiff', 'stepquota.workflow_runs', 'insert, update, delete, truncate'), 'and writes none');
select is_empty($$select p.proname from pg_proc p where p.pronamespace = 'stepquota'::regnamespace
    and has_function_privilege('test_stiff', p.oid, 'execute') <>
      (has_function_privilege('stepquota_runtime', p.oid, 'execute') or has_function_privilege('stepquota_observer', p.oid, 'execute'))$$,
  'it may what the two roles may, and nothing else');
-- A load states them anew: what a new release brings comes along, and what somebody added goes.
revoke execute on function stepquota.start_workflow_step from test_stiff;
grant execute on function stepquota.set_policy to test_stiff;
select load_again();
select ok(may('test_stiff', 'start_workflow_step'), 'a load gives what is missing');
select ok(not may('test_stiff', 'set_policy'), 'and takes what is too much');
-- From a role that has become one that inherits, the next load makes a member.
alter role test_stiff inherit;
select load_again();
select set_eq($$select given_as from stepquota.role_grants$$, array['membership'], 'it is a membership as soon as it can be');
select is_empty($$select from pg_proc p cross join lateral aclexplode(p.proacl) a
    where p.pronamespace = 'stepquota'::regnamespace and a.grantee = 'test_stiff'::regrole$$, 'and nothing is granted twice');
alter role test_stiff noinherit;
revoke stepquota_runtime, stepquota_observer from test_stiff;
select load_again();
select is(stepquota.revoke_role('test_stiff', 'runtime'), true, 'one of two is taken back');
select ok(not may('test_stiff', 'start_workflow_step') and may('test_stiff', 'verify_all'), 'and the other stays');
select is(stepquota.revoke_role('test_stiff', 'observer'), true, 'the other one too');
select ok(not has_schema_privilege('test_stiff', 'stepquota', 'usage'), 'then nothing is left');
-- A role that is gone is forgotten.
select stepquota.grant_role('test_stiff', 'sync');
drop owned by test_stiff;
drop role test_stiff;
select load_again();
select is_empty($$select from stepquota.role_grants$$, 'a role that was dropped is forgotten');
-- Nobody but the owner.
grant stepquota_operator to "test Worker";
set local role "test Worker";
select throws_ok($$select stepquota.grant_role('test Worker', 'operator')$$, '42501', null, 'an operator cannot give rights');
select throws_ok($$select stepquota.revoke_role('test Worker', 'operator')$$, '42501', null, 'nor take them');
reset role;
select throws_ok($$select stepquota.grant_role('test Worker', 'owner')$$, 'WQ001', null, 'there are four kinds');
select * from finish();
rollback;
