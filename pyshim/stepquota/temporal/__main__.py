"""The dispatcher in a process of its own: ``python -m stepquota.temporal [DATABASE_URL]``.

Where Temporal is it reads as Temporal's own tools do, from ``TEMPORAL_ADDRESS`` and the like or the
file of profiles.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from temporalio.client import Client
from temporalio.envconfig import ClientConfig

from .quota import Quota


async def main(database_url: str) -> None:
    """Take resumptions, for ever."""
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    await Quota(database_url).resume_workflows(client)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        url = sys.argv[1] if len(sys.argv) > 1 else os.environ["DATABASE_URL"]
    except KeyError:
        sys.exit("stepquota: name the database, or set DATABASE_URL")
    asyncio.run(main(url))
