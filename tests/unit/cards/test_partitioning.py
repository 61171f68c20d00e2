# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Partitioning into GPU instances and mixed-size mode, at boot and on changes."""

from __future__ import annotations

import pytest

import recorded
from gpu.card import CardMode
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.facts import gather
from planning import mappings
from planning.plan import make_plan
from state import driver_cache

CARD = "0000:41:00.0"
MIG = "{A100-1-5C: ['10de:20f1']}"
TIME_SLICED = "{A100-20C: ['10de:20f1']}"
SIZES = "{A40-2Q: ['0000:41:00.4'], A40-4Q: ['0000:41:00.5']}"


def requests(text):
    return mappings.requests(mappings.OPTION.parse(text))


def offered(host, text):
    plan = make_plan(requests(text), gather(host.root).cards)
    return {assignment.type_id: len(assignment.addresses) for assignment in plan.assignments}


def steps(host):
    """Return the commands that changed the cards, in order."""
    reads = {"--query-gpu=mig.mode.current,mig.mode.pending", "-s", "-lgi", "-q"}
    return [
        " ".join(argument for argument in argv if argument not in ("-i", CARD)).rsplit("/", 1)[-1]
        for argv in host.commands
        if (argv[0] == "nvidia-smi" and not reads & set(argv)) or "sriov-manage" in argv[0]
    ]


def instances(host):
    return host.driver.card(CARD)["mig"].get("instances", [])


def test_mode_is_set_before_functions_and_functions_before_instances(machine):
    """New virtual functions bind the driver again, which removes GPU instances."""
    host = machine("a100-sriov-off")
    assert host.prepare_cards(MIG) == ()
    create = "nvidia-smi mig -cgi 19 -C"
    assert steps(host) == ["nvidia-smi -mig 1", "sriov-manage -e", *[create] * 7]
    assert offered(host, MIG) == {"nvidia-474": 7}


def test_partitioned_card_is_left_unchanged(machine):
    host = machine("a100-sriov-off")
    host.prepare_cards(MIG)
    host.commands.clear()
    assert host.prepare_cards(MIG) == ()
    assert steps(host) == []


def test_functions_are_disabled_before_the_mode_changes(machine):
    """The driver refuses to change MIG mode while the card has virtual functions."""
    host = machine(recorded.host("a100-80-pair"))
    text = "{A100D-3-40C: ['0000:31:00.0']}"
    assert host.prepare_cards(text) == ()
    card = host.driver.card("0000:31:00.0")
    assert (card["mig"]["instances"], card["sriov"]["enabled"]) == ([9, 9], 20)
    verbs = [argv[1] for argv in host.commands if "sriov-manage" in argv[0]]
    assert verbs == ["-d", "-e"]
    assert "instances" not in host.driver.card("0000:b1:00.0")["mig"]


def test_max_instances_limits_gpu_instances(machine):
    host = machine("a100-sriov-off")
    text = "{A100-1-5C: {devices: ['10de:20f1'], max-instances: 3}}"
    assert host.prepare_cards(text) == ()
    assert instances(host) == [19] * 3
    assert offered(host, text) == {"nvidia-474": 3}


def test_more_instances_of_one_profile_keep_existing_ones(machine):
    host = machine("a100-sriov-off")
    host.prepare_cards("{A100-1-5C: {devices: ['10de:20f1'], max-instances: 3}}")
    host.commands.clear()
    host.prepare_cards(MIG)
    assert instances(host) == [19] * 7
    assert steps(host) == ["nvidia-smi mig -cgi 19 -C"] * 4


def test_other_profile_replaces_the_first(machine):
    host = machine("a100-sriov-off")
    host.prepare_cards(MIG)
    text = "{A100-2-10C: ['10de:20f1']}"
    assert host.prepare_cards(text) == ()
    assert instances(host) == [14] * 3
    assert offered(host, text) == {"nvidia-475": 3}


def test_larger_instances_are_created_first(machine):
    host = machine("a100-sriov-off")
    functions = [f"41:00.{number}" for number in (4, 5, 6, 7)]
    text = (
        f"{{A100-1-5C: {{devices: ['{functions[0]}', '{functions[1]}'], max-instances: 2}},"
        f" A100-3-20C: {{devices: ['{functions[2]}'], max-instances: 1}}}}"
    )
    assert host.prepare_cards(text) == ()
    assert instances(host) == [9, 19, 19]


def test_instances_are_created_again_after_a_boot(machine):
    host = machine("a100-sriov-off")
    host.prepare_cards(MIG)
    host.reboot()
    host.commands.clear()
    assert host.prepare_cards(MIG) == ()
    assert instances(host) == [19] * 7
    assert "nvidia-smi -mig 1" not in steps(host)  # Ampere keeps the mode


def test_mode_lost_at_boot_is_set_again(machine):
    """Hopper and later lose MIG mode at each boot."""
    host = machine(recorded.without_functions("h200"))
    text = "{H200X-1-18C: ['10de:2335']}"
    for _ in range(2):
        assert host.prepare_cards(text) == ()
        assert list(host.assigned_types().values()) == ["nvidia-1414"] * 7
        host.reboot()


def test_several_vgpus_share_one_instance_if_supported(machine):
    host = machine(recorded.without_functions("rtx-pro-6000"))
    text = "{DC-1-2Q: {devices: ['10de:2bb5'], max-instances: 30}}"
    assert host.prepare_cards(text) == ()
    assert host.driver.card("0001:c8:00.0")["mig"]["instances"] == [19] * 3
    assigned = host.assigned_types()
    assert (len(assigned), set(assigned.values())) == (30, {"nvidia-1546"})


def test_time_sliced_type_switches_mig_mode_off(machine):
    host = machine("a100-sriov-off")
    host.prepare_cards(MIG)
    host.commands.clear()
    assert host.prepare_cards(TIME_SLICED) == ()
    assert steps(host) == ["sriov-manage -d", "nvidia-smi -mig 0", "sriov-manage -e"]
    assert offered(host, TIME_SLICED) == {"nvidia-472": 2}


def test_mig_mode_set_by_somebody_else_is_switched_off_for_time_sliced_types(machine):
    host = machine("a100-sriov-off")
    host.driver.nvidia_smi("-i", CARD, "-mig", "1")
    host.driver.sriov_manage("-e", CARD)
    assert host.prepare_cards(TIME_SLICED) == ()
    assert offered(host, TIME_SLICED) == {"nvidia-472": 2}


def test_types_of_a_vendor_vfio_card_are_cleared_before_its_mode_changes(machine):
    host = machine("rtx-pro-6000")
    assert host.prepare_cards("{DC-48Q: ['10de:2bb5']}") == ()
    assert host.prepare_cards("{DC-1-24Q: ['10de:2bb5']}") == ()
    assert list(host.assigned_types().values()) == ["nvidia-1561"] * 4


def test_pending_mode_change_resets_the_card(machine):
    host = machine("a100-sriov-off")
    host.driver.needs_reset = True
    assert host.prepare_cards(MIG) == ()
    assert steps(host)[:3] == ["nvidia-smi -mig 1", "nvidia-smi --gpu-reset", "sriov-manage -e"]


def test_mode_change_prevented_by_a_client_needs_a_reboot(machine):
    host = machine("a100-sriov-off")
    host.driver.needs_reset = host.driver.is_busy = True
    assert host.prepare_cards(MIG) == (Problem(ProblemKind.MIG_PENDING, PciAddress.parse(CARD)),)
    host.reboot()
    assert host.prepare_cards(MIG) == ()
    assert instances(host) == [19] * 7


def test_refused_mode_change_is_reported(machine):
    host = machine("a100-sriov-off")
    host.fail("nvidia-smi -mig", stdout="Unable to enable MIG Mode\n", returncode=3)
    assert host.prepare_cards(MIG) == (
        Problem(
            ProblemKind.MIG_FAILED, PciAddress.parse(CARD), reason="Unable to enable MIG Mode"
        ),
    )


def test_card_is_not_partitioned_without_profiles(machine):
    host = machine("a100-sriov-off")
    host.fail(
        "nvidia-smi vgpu -s",
        returncode=0,
        stdout="vGPU Type ID : 0x1da\nName : GRID A100-1-5C\nMax Instances : 7\n",
    )
    assert host.prepare_cards(MIG) == (
        Problem(
            ProblemKind.MIG_FAILED, PciAddress.parse(CARD), reason="the driver reports no profile"
        ),
    )
    assert instances(host) == []


def test_card_without_mig_is_reported(machine):
    host = machine("l40s-vendor-vfio")
    (problem,) = host.prepare_cards("{L40S-1-6C: ['10de:26b9']}")
    assert problem == Problem(
        ProblemKind.NO_MIG, PciAddress.parse("0000:3d:00.0"), vgpu_type="L40S-1-6C"
    )


def test_type_unknown_to_the_driver_is_not_offered(machine):
    host = machine("a100-sriov-off")
    assert host.prepare_cards("{A100-9-99C: ['10de:20f1']}") == (
        Problem(ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse(CARD), vgpu_type="A100-9-99C"),
    )


def test_instance_without_room_is_reported_with_the_driver_message(machine):
    host = machine("a100-sriov-off")
    text = "{A100-7-40C: ['0000:41:00.4'], A100-1-5C: ['0000:41:00.5']}"
    assert host.prepare_cards(text)[0] == Problem(
        ProblemKind.MIG_FAILED, PciAddress.parse(CARD), reason="Insufficient Resources"
    )


def test_failing_nvidia_smi_does_not_prevent_time_sliced_types(machine):
    host = machine("a100-sriov-off")
    host.fail("nvidia-smi", output="NVIDIA-SMI has failed\n", returncode=9)
    assert host.prepare_cards(TIME_SLICED) == ()
    assert offered(host, TIME_SLICED) == {"nvidia-472": 2}
    assert host.prepare_cards(MIG)[0] == Problem(
        ProblemKind.MIG_FAILED, PciAddress.parse(CARD), reason="NVIDIA-SMI has failed"
    )


def test_mixed_size_mode_is_set_after_functions_are_enabled(machine):
    host = machine(recorded.without_functions("a40-mdev"))
    assert host.prepare_cards(SIZES) == ()
    assert steps(host) == ["sriov-manage -e", "nvidia-smi vgpu -shm 1"]
    assert gather(host.root).cards[0].mode == CardMode(mixed_size=True, types_queried=True)
    assert offered(host, SIZES) == {"nvidia-558": 1, "nvidia-560": 1}
    host.prepare_cards("{A40-2Q: ['10de:2235']}")
    assert gather(host.root).cards[0].mode == CardMode(types_queried=True)


def test_card_without_mixed_size_mode_is_recorded(machine):
    host = machine("a100-80-pair")
    text = "{A100D-4C: ['0000:31:00.4'], A100D-8C: ['0000:31:00.5']}"
    assert host.prepare_cards(text) == ()
    mode = CardMode((), None, types_queried=True)
    assert driver_cache.load_modes(host.root) == {gather(host.root).cards[0].gpu.address: mode}
    plan = make_plan(requests(text), gather(host.root).cards)
    assert [problem.kind for problem in plan.problems] == [ProblemKind.MIXED_SIZES]


def test_refused_mixed_size_mode_is_reported(machine):
    host = machine("a40-mdev")
    host.fail("nvidia-smi vgpu -shm", stdout="In use by another client\n", returncode=19)
    assert host.prepare_cards(SIZES) == (
        Problem(
            ProblemKind.MIXED_SIZE_FAILED,
            PciAddress.parse(CARD),
            reason="In use by another client",
        ),
    )


def test_program_that_prevents_a_mode_is_named(machine):
    host = machine("a40-mdev")
    process = host.root / "proc/4711"
    (process / "fd").mkdir(parents=True)
    (process / "fd/5").symlink_to("/dev/nvidiactl")
    (process / "cgroup").write_text("0::/system.slice/nvidia-persistenced.service\n")
    host.fail("nvidia-smi vgpu -shm", stdout="In use by another client\n", returncode=19)
    (problem,) = host.prepare_cards(SIZES)
    assert problem.argument("reason") == "nvidia-persistenced uses the card"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": []}', '{"0000:41:00.0": [1]}'])
def test_invalid_record_of_modes_is_ignored(host, text):
    root = host("a40-mdev")
    path = root / "run/nova-compute-nvidia-vgpu/modes.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert driver_cache.load_modes(root) == {}


def test_instances_are_destroyed_before_mig_mode_is_switched_off(machine):
    """The driver refuses to destroy GPU instances that contain compute instances."""
    host = machine("a100-sriov-off")
    host.prepare_cards(MIG)
    host.driver.keeps_instances = True
    host.commands.clear()
    assert host.prepare_cards(TIME_SLICED) == ()
    assert steps(host)[:4] == [
        "sriov-manage -d",
        "nvidia-smi mig -dci",
        "nvidia-smi mig -dgi",
        "nvidia-smi -mig 0",
    ]


def test_types_of_new_gpu_instances_are_awaited(machine):
    """nvidia-vgpud registers only the types that exist when it runs."""
    host = machine("a100-sriov-off")
    host.driver.registers_late = True
    assert host.prepare_cards(MIG) == ()
    assert host.did("systemctl restart") == [("systemctl", "restart", "nvidia-vgpud")]
    assert offered(host, MIG) == {"nvidia-474": 7}
