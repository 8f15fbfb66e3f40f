-- The one clock. Every public function reads it once into a variable, so that all it decides is of
-- one moment, and because Citus refuses a volatile function inside UPDATE, ON CONFLICT or CASE.

-- Anybody may set the setting, so it counts only where the owner has allowed it.
create or replace function stepquota._read_test_clock()
returns timestamptz
language plpgsql
volatile
as $_read_test_clock$
begin
  if exists (select 1 from stepquota.policy p where p.allow_test_clock) then
    return current_setting('stepquota.now')::timestamptz;
  end if;
  return clock_timestamp();
end;
$_read_test_clock$;

-- Written to be inlined where it is called: every reservation asks it.
create or replace function stepquota._now()
returns timestamptz
language sql
volatile
as $_now$
  select case when coalesce(current_setting('stepquota.now', true), '') = ''
              then clock_timestamp()
              else stepquota._read_test_clock() end;
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
comment on function stepquota._read_test_clock() is 'The setting stepquota.now where policy.allow_test_clock is on; else the database''s clock.';
comment on function stepquota._format_moment(timestamptz) is 'A moment for a sentence, in UTC.';
