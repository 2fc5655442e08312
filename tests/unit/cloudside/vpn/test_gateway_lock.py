import threading

import pytest

from cloudside.config import Config
from cloudside.errors import ConfigurationError
from cloudside.vpn import gateway
from linux import locks


def test_a_second_gateway_does_not_start_and_touches_nothing(config: Config) -> None:
    config.runtime_directory.mkdir()
    first = locks.take(config.runtime_directory / "gateway.lock")
    assert first is not None
    with first, pytest.raises(ConfigurationError) as refused:
        gateway.run(config, threading.Event())
    assert refused.value.key == "vpn.gateway-runs-already"
