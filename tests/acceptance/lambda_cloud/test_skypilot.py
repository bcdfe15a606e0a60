"""What goes wrong inside SkyPilot, with the real one: `make test-cloud-all`."""

from __future__ import annotations

from contextlib import suppress

import psutil
import pytest

from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.renter import LIMIT_S, LINE, agrees_with_the_meter, driver_log, record_of
from tests.acceptance.program import Program
from tests.acceptance.waiting import until


def _asked(renter: Program) -> bool:
    record = record_of(renter)
    return record is not None and record.launch_request is not None


@pytest.mark.full
def test_skypilots_server_killed_in_mid_launch_with_all_its_processes_is_asked_again(
    renter: Program, cloud: Cloud
) -> None:
    launcher = renter.start(*LINE)
    until(lambda: _asked(renter), "the request", seconds=LIMIT_S)
    servers = [each for each in psutil.process_iter(["cmdline"]) if _is_server(each, renter)]
    assert servers
    for server in servers:
        for process in [*server.children(recursive=True), server]:
            with suppress(psutil.NoSuchProcess):  # its parent's end was its own
                process.kill()
    _, said = launcher.communicate(timeout=LIMIT_S)
    assert launcher.returncode == 0, said + driver_log(renter)
    assert "SkyPilot is asked again" in driver_log(renter)
    agrees_with_the_meter(renter, cloud)


def _is_server(process: psutil.Process, renter: Program) -> bool:
    try:
        server = any("sky.server.server" in word for word in process.info["cmdline"] or [])
        return server and process.environ().get("HOME", "").startswith(str(renter.home))
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


@pytest.mark.full
def test_a_set_up_that_fails_after_the_create_is_said_in_few_lines_and_the_machine_is_ended(
    renter: Program, cloud: Cloud
) -> None:
    launcher = renter.start(*LINE)
    until(lambda: bool(cloud.provider.everything()), "the machine", seconds=LIMIT_S)
    machine = cloud.machine(cloud.provider.everything()[0].name)
    machine.wait_until_up()
    machine.run(["rm", "-rf", "/home/ubuntu/skypilot-runtime", "/home/ubuntu/.local/bin/uv", "/usr/bin/curl"])
    _, said = launcher.communicate(timeout=LIMIT_S)
    assert launcher.returncode == 1, said
    assert "SkyPilot could not start the job" in said
    end = said[said.index("dpo-1 failed after") :]
    assert len(end.splitlines()) < 20, said
    assert "\x1b" not in end, "SkyPilot's colours"
    assert "Nothing is running, nothing is costing money" in said
    agrees_with_the_meter(renter, cloud)


@pytest.mark.full
def test_two_launches_at_the_same_second_are_two_machines(renter: Program, cloud: Cloud) -> None:
    both = [renter.start(*LINE) for _ in range(2)]
    for launcher in both:
        _, said = launcher.communicate(timeout=LIMIT_S)
        assert launcher.returncode == 0, said
    assert len({request.body["name"] for request in cloud.api.creates()}) == 2
    agrees_with_the_meter(renter, cloud)
