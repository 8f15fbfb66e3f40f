-- The one clock. Every public function reads it once into a variable, so that all it decides is of
-- one moment, and because Citus refuses a volatile function inside UPDATE, ON CONFLICT or CASE.

create or replace function stepquota._now()
returns timestamptz
language plpgsql
volatile
as $_now$
declare
  v_test_time text := current_setting('stepquota.now', true);
begin
  if v_test_time is null or v_test_time = '' then
    return clock_timestamp();
  end if;
  -- Anybody may set the setting, so it counts only where the owner has allowed it.
  if exists (select 1 from stepquota.policy p where p.allow_test_clock) then
    return v_test_time::timestamptz;
  end if;
  return clock_timestamp();
end;
$_now$;

-- Moments in sentences: UTC, to the second, without depending on the session's settings.
create or replace function stepquota._format_moment(p_moment timestamptz)
returns text
language sql
immutable
as $_format_moment$
  select to_char(p_moment at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC';
$_format_moment$;

comment on function stepquota._now() is
  'The present moment: the database''s clock, or the setting stepquota.now where policy.allow_test_clock is on.';
comment on function stepquota._format_moment(timestamptz) is 'A moment for a sentence, in UTC.';
