-- Each violation is seen, and names tenant and object; a sound installation gives no row.
begin;
select plan(13);
select set_clock('2026-04-15Z');
select give_limit('acme', 2), use_units('acme', 2);
select isnt(pause_run('acme', 'r'), null, 'a paused run');
select give_limit('rich', 5), use_units('rich', 1);
select is_empty('select * from stepquota.verify_all()', 'a sound installation');
create function pg_temp.seen(p_damage text) returns text language plpgsql as $$
declare
  v_seen text;
begin
  begin
    execute p_damage;
    select string_agg(distinct format('%s %s %s', v.invariant, v.tenant, v.object), '; ') into v_seen from stepquota.verify_all() v;
    raise exception using errcode = 'XX999', message = 'undo';
  exception when sqlstate 'XX999' then
    null;
  end;
  return v_seen;
end;
$$;
select alike(pg_temp.seen($$update stepquota.workflow_step_usage_lanes set allowance = 7 where tenant = 'rich'$$), 'I1 exact rich %', 'a lane that owns too much');
select alike(pg_temp.seen($$update stepquota.workflow_step_usage_lanes set allowance = null where tenant = 'rich'$$), 'I1 exact rich %', 'or all');
select alike(pg_temp.seen($$update stepquota.workflow_step_usage_lanes set used_count = 3 where tenant = 'acme'$$), '%I1 exact acme %', 'one that used too much');
select alike(pg_temp.seen($$delete from stepquota.workflow_step_usage_lanes where tenant = 'rich'$$), '%I1 exact rich %', 'one that is gone');
select alike(pg_temp.seen($$update stepquota.workflow_step_usage_lanes set unledgered_count = -1 where tenant = 'rich'$$), '%I1 exact rich %', 'one that counts below 0');
select alike(pg_temp.seen($$insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, generation) select l.tenant, l.period_start, l.lane, 0, 9 from stepquota.workflow_step_usage_lanes l where l.tenant = 'rich'$$), 'I1 exact rich %', 'one that is there twice');
select alike(pg_temp.seen($$delete from stepquota.workflow_run_steps where tenant = 'rich'$$), 'I3 conserved rich %', 'a ledger row that is gone');
select is(pg_temp.seen($$update stepquota.workflow_run_waits set status = 'CANCELED', resolved_at = now()$$), 'I5 no lost run acme r', 'a run that waits for nothing');
select is(pg_temp.seen($$delete from stepquota.paused_tenants$$), 'I5 no lost run acme r', 'a tenant that nobody will look at');
select is(pg_temp.seen($$update stepquota.workflow_runs set status = 'FAILED', ended_at = now() where run_id = 'r'$$), 'I5 no lost run acme r', 'a wait of a run that has ended');
select is(pg_temp.seen($$update stepquota.workflow_run_waits set status = 'RESOLVED', resolved_at = now(); update stepquota.workflow_runs set status = 'RUNNING' where run_id = 'r'$$), 'I5 no lost run acme r', 'a resolved wait that nothing came of');
select * from finish();
rollback;
