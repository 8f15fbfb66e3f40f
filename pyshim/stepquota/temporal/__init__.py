"""stepquota for Temporal: activities ask before each attempt, and workflows rest without quota.

A worker gets the plugin, and one task of any process takes the resumptions::

    quota = Quota("postgresql://...")
    client = await Client.connect("localhost:7233", plugins=[quota])
    asyncio.create_task(quota.resume_workflows(client))
    await Worker(client, task_queue="orders", workflows=[...], activities=[...]).run()

    with stepquota.temporal.tenant("acme"):
        await client.start_workflow(...)

Nothing changes in the workflows. Attempt n of an activity is attempt n of its step. One that is
refused answers so to its workflow, which rests without a timer, a worker or a timeout until it is
signalled, and schedules the activity again with what was left of its retries and of its time. See
docs/temporal.md. Needs the extra ``temporal``.
"""

from .quota import LONGEST_WAIT, Quota, tenant
from .workflows import step, tenant_of_header, wait

__all__ = ["LONGEST_WAIT", "Quota", "step", "tenant", "tenant_of_header", "wait"]
