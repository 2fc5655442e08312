"""Delivery is tested on the loop that the daemons run on: uvloop's transports are not asyncio's."""

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}
