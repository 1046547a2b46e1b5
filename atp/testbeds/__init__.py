"""The games, as pure rules: no model, no file, no clock."""

from atp.testbeds import bargaining, coordination, role_play, tool_use
from atp.testbeds.base import Testbed

TESTBEDS: dict[str, Testbed] = {
    testbed.name: testbed for testbed in (role_play.TESTBED, coordination.TESTBED, bargaining.TESTBED, tool_use.TESTBED)
}
