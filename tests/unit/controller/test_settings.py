"""Settings of the controller that depend on each other."""

import pytest

from keyshred.config import ControllerSettings, read
from keyshred.errors import ConfigInvalid


def test_a_step_in_the_hsm_ends_before_the_lease_may_be_taken() -> None:
    read(ControllerSettings, {"token_uri": "x", "hsm_deadline": "3", "lease_duration": "12"}, {})
    with pytest.raises(ConfigInvalid, match="--lease-duration must be at least 4 times"):
        read(ControllerSettings, {"token_uri": "x", "hsm_deadline": "3", "lease_duration": "11.9"}, {})
