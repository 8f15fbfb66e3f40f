-- How a limit is read from metadata, and how billing periods are counted.

-- What a metadata value says: state is absent, limited, unlimited or invalid; step_limit is set when
-- limited. Any white space around, leading zeros and any case of "unlimited" are accepted. At most 18
-- digits, so that it fits a bigint; a JSON number has been turned to its text by ->> before.
create or replace function stepquota._read_step_limit(
  p_value text, p_zero_is_valid boolean, out state text, out step_limit bigint)
language plpgsql
immutable
as $_read_step_limit$
begin
  if p_value is null then
    state := 'absent';
  elsif p_value ~ '^[[:space:]]*[0-9]{1,18}[[:space:]]*$' then
    step_limit := regexp_replace(p_value, '[[:space:]]', '', 'g')::bigint;
    state := 'limited';
    if step_limit = 0 and not p_zero_is_valid then
      state := 'invalid';
      step_limit := null;
    end if;
  elsif p_value ~* '^[[:space:]]*unlimited[[:space:]]*$' then
    state := 'unlimited';
  else
    state := 'invalid';
  end if;
end;
$_read_step_limit$;

-- The billing period around a moment, counted from the anchor and never step by step: an anchor on the
-- 31st bills on 28 February and then on 31 March, as Stripe does
-- (https://docs.stripe.com/billing/subscriptions/billing-cycle). All in UTC.
-- NULL if the interval is not one of Stripe's, or the moment lies before the anchor.
create or replace function stepquota._billing_period(
  p_anchor timestamptz, p_interval text, p_interval_count integer, p_moment timestamptz,
  out period_start timestamptz, out period_end timestamptz)
language plpgsql
immutable
as $_billing_period$
declare
  v_anchor timestamp := p_anchor at time zone 'UTC';
  v_moment timestamp := p_moment at time zone 'UTC';
  v_step interval;
  v_steps bigint;
begin
  v_step := case p_interval
    when 'day' then interval '1 day' when 'week' then interval '7 days'
    when 'month' then interval '1 month' when 'year' then interval '12 months'
  end * p_interval_count;
  if v_step is null or v_moment < v_anchor then
    return;
  end if;
  -- A first guess that is never too high by more than one, then exact by comparison.
  v_steps := case
    when p_interval in ('day', 'week') then floor(extract(epoch from v_moment - v_anchor) / extract(epoch from v_step))
    else ((extract(year from v_moment) - extract(year from v_anchor)) * 12
          + extract(month from v_moment) - extract(month from v_anchor))::bigint
         / (extract(year from v_step) * 12 + extract(month from v_step))::bigint
  end;
  if v_anchor + v_steps * v_step > v_moment then
    v_steps := v_steps - 1;
  end if;
  period_start := (v_anchor + v_steps * v_step) at time zone 'UTC';
  period_end := (v_anchor + (v_steps + 1) * v_step) at time zone 'UTC';
end;
$_billing_period$;

-- The UTC calendar month around a moment.
create or replace function stepquota._calendar_month(
  p_moment timestamptz, out period_start timestamptz, out period_end timestamptz)
language plpgsql
immutable
as $_calendar_month$
declare
  v_first_day timestamp := date_trunc('month', p_moment at time zone 'UTC');
begin
  period_start := v_first_day at time zone 'UTC';
  period_end := (v_first_day + interval '1 month') at time zone 'UTC';
end;
$_calendar_month$;

comment on function stepquota._read_step_limit(text, boolean) is 'Reads a workflow_step_limit value.';
comment on function stepquota._billing_period(timestamptz, text, integer, timestamptz) is
  'The billing period around a moment, counted from the anchor.';
comment on function stepquota._calendar_month(timestamptz) is 'The UTC calendar month around a moment.';
