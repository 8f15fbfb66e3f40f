-- The limit of present periods that were there before periods had one: it stood empty until it changed, and an
-- empty limit is unlimited.

update stepquota.workflow_step_usage_periods p
   set effective_limit = q.effective_limit
  from stepquota.workflow_step_quotas q
 where q.tenant = p.tenant and q.period_start = p.period_start
   and p.effective_limit is distinct from q.effective_limit;
