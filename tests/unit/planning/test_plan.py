# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

import recorded
from gpu.card import Card, CardMode, VgpuType
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from nova_compute import nova_conf
from nova_compute.compatibility import apply_release
from nova_compute.nova_conf import VariantDriverOptions
from nova_compute.release import NovaVersion
from planning import mappings
from planning.plan import Plan, make_plan
from planning.preparation import InstanceRequest, Partitioning

CARACAL = "29.2.0"  # the first that honours all that is written
YOGA = "25.2.1"

A40_FUNCTIONS = [f"0000:41:{number // 8:02x}.{number % 8}" for number in range(4, 36)]


def requests(text):
    data = mappings.parse(text)
    mappings.check(data)
    return mappings.requests(data)


def planned(text, cards, nova=CARACAL):
    return apply_release(make_plan(requests(text), cards), cards, NovaVersion.parse(nova))


def offered(plan):
    return [
        (found.type_id, [str(address) for address in found.addresses])
        for found in plan.assignments
    ]


def cards_of(plan):
    return [[str(address) for address in found.cards] for found in plan.assignments]


# What stands in the option reaches the cards of this host


@pytest.mark.parametrize("word", ["nvidia-233", "T4-8Q", "GRID T4-8Q", "NVIDIA T4-8Q"])
def test_type_is_resolved_to_the_id_on_this_host(cards, word):
    plan = planned(f"{{{word}: ['0000:84:00.0']}}", cards("t4-pair"))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0"])]
    assert plan.assignments[0].name == "GRID T4-8Q"


def test_pci_id_selects_every_card_of_the_model(cards):
    plan = planned("{T4-8Q: ['10de:1eb8']}", cards("t4-pair"))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0", "0000:d8:00.0"])]
    assert cards_of(plan) == [["0000:84:00.0", "0000:d8:00.0"]]


def test_pci_id_selects_no_other_card(cards):
    plan = planned("{T4-8Q: ['10de:1eb8']}", cards("mixed"))
    assert cards_of(plan) == [["0000:3b:00.0"]]


def test_card_selected_by_address_and_by_pci_id_is_listed_once(cards):
    plan = planned("{T4-8Q: ['0000:d8:00.0', '10de:1eb8']}", cards("t4-pair"))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0", "0000:d8:00.0"])]


@pytest.mark.parametrize("device", ["0000:41:00.0", "10de:2235"])
@pytest.mark.parametrize("word", ["nvidia-558", "A40-2Q"])
def test_physical_function_selects_its_virtual_functions(cards, device, word):
    plan = planned(f"{{{word}: ['{device}']}}", cards("a40-mdev"))
    assert offered(plan) == [("nvidia-558", A40_FUNCTIONS[:24])]
    assert cards_of(plan) == [["0000:41:00.0"]]


def test_single_virtual_functions_can_be_selected(cards):
    plan = planned("{A40-2Q: ['0000:41:00.5', '41:00.4']}", cards("a40-mdev"))
    assert offered(plan) == [("nvidia-558", ["0000:41:00.4", "0000:41:00.5"])]
    assert cards_of(plan) == [["0000:41:00.0"]]


def test_one_mapping_covers_three_card_models(cards):
    text = "{T4-8Q: ['10de:1eb8'], A40-12Q: ['10de:2235'], V100-8Q: ['10de:1db4']}"
    plan = planned(text, cards("mixed"))
    assert offered(plan) == [
        ("nvidia-233", ["0000:3b:00.0"]),
        ("nvidia-563", A40_FUNCTIONS[:4]),
        ("nvidia-108", ["0000:c1:00.0"]),
    ]
    assert (plan.problems, plan.for_other_hosts, plan.keeps_published) == ((), (), False)


def test_type_id_is_the_folder_name_on_this_host(host, cards):
    (card,) = cards("t4-pair", functions=recorded.host("t4-pair")["functions"][-1:])
    plan = planned("{vfio-pci-233: ['0000:d8:00.0']}", (card,))
    assert offered(plan) == [("nvidia-233", ["0000:d8:00.0"])]


def test_options_of_the_long_form_are_kept(cards):
    text = "{T4-8Q: {devices: ['10de:1eb8'], max-instances: 4, resource-class: CUSTOM_T4_8Q}}"
    (found,) = planned(text, cards("t4-pair")).assignments
    assert (found.max_instances, found.resource_class) == (4, "CUSTOM_T4_8Q")


# A fleet shares one value

FLEET = "{nvidia-35: ['0000:84:00.0', '0000:85:00.0'], nvidia-36: ['0000:86:00.0']}"


def test_host_without_a_card_publishes_the_plain_form_unchanged(cards):
    plan = planned(FLEET, cards("no-gpu"))
    assert offered(plan) == [
        ("nvidia-35", ["0000:84:00.0", "0000:85:00.0"]),
        ("nvidia-36", ["0000:86:00.0"]),
    ]
    assert (cards_of(plan), plan.problems, plan.keeps_published) == ([[], []], (), False)


@pytest.mark.parametrize(
    "text",
    [
        "{T4-8Q: ['0000:84:00.0']}",
        "{nvidia-233: ['10de:1eb8']}",
        "{nvidia-233: {devices: ['0000:84:00.0']}}",
    ],
    ids=["by name", "by PCI id", "long form"],
)
def test_host_without_a_card_publishes_no_other_form(cards, text):
    assert planned(text, cards("no-gpu")) == Plan(for_other_hosts=requests(text))


@pytest.mark.parametrize("nova", ["17.0.13", "22.2.1", YOGA, CARACAL])
def test_host_with_unmapped_cards_publishes_nothing(cards, nova):
    text = "{nvidia-233: ['0000:99:00.0']}"
    assert planned(text, cards("t4-pair"), nova) == Plan(for_other_hosts=requests(text))


def test_unset_option_offers_nothing(cards):
    assert make_plan((), cards("t4-pair")) == Plan()


def test_addresses_of_other_hosts_are_published_too(cards):
    text = "{nvidia-233: ['0000:99:00.0', '0000:d8:00.0', '0000:0a:00.0']}"
    plan = planned(text, cards("t4-pair"))
    assert offered(plan) == [("nvidia-233", ["0000:99:00.0", "0000:d8:00.0", "0000:0a:00.0"])]
    assert cards_of(plan) == [["0000:d8:00.0"]]


def test_physical_function_of_another_host_is_published_too(cards):
    plan = planned("{nvidia-558: ['0000:99:00.0', '0000:41:00.0']}", cards("a40-mdev"))
    assert offered(plan) == [("nvidia-558", ["0000:99:00.0", *A40_FUNCTIONS[:24]])]


def test_plain_form_keeps_the_order_of_addresses(cards):
    written = ["0000:99:00.0", "0000:d8:00.0", "0000:0a:00.0", "0000:84:00.0"]
    plan = planned(f"{{nvidia-233: {written}}}", cards("t4-pair"))
    assert offered(plan) == [("nvidia-233", written)]


def test_plain_type_of_another_host_is_published_too(cards):
    plan = planned("{nvidia-35: ['0000:99:00.0'], nvidia-233: ['0000:84:00.0']}", cards("t4-pair"))
    assert offered(plan) == [("nvidia-35", ["0000:99:00.0"]), ("nvidia-233", ["0000:84:00.0"])]
    assert [request.vgpu_type for request in plan.for_other_hosts] == ["nvidia-35"]
    assert plan.problems == ()


def test_named_type_of_another_host_is_not_published(cards):
    plan = planned("{A40-2Q: ['10de:2235'], T4-8Q: ['10de:1eb8']}", cards("t4-pair"))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0", "0000:d8:00.0"])]
    assert [request.vgpu_type for request in plan.for_other_hosts] == ["A40-2Q"]


def test_plain_form_is_published_while_types_are_unknown(cards):
    plan = planned("{nvidia-233: ['0000:84:00.0']}", cards("t4-fresh"))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0"])]
    assert (plan.assignments[0].name, plan.problems) == (None, ())


# What a card cannot do holds back what was published before


def problems_of(text, cards, nova=CARACAL):
    plan = planned(text, cards, nova)
    assert plan.keeps_published
    return plan.problems


def test_type_that_no_card_offers_is_a_problem(cards):
    assert problems_of("{V100-8Q: ['10de:1eb8']}", cards("t4-pair")) == (
        Problem(
            ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:84:00.0"), vgpu_type="V100-8Q"
        ),
        Problem(
            ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:d8:00.0"), vgpu_type="V100-8Q"
        ),
    )


def test_plain_type_that_the_card_does_not_offer_is_noted_and_published(cards):
    """The address may be meant for another host; one line must not cost the others."""
    plan = planned("{nvidia-35: ['0000:84:00.0'], nvidia-233: ['0000:d8:00.0']}", cards("t4-pair"))
    assert plan.notes == (
        Problem(
            ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:84:00.0"), vgpu_type="nvidia-35"
        ),
    )
    assert offered(plan) == [
        ("nvidia-35", ["0000:84:00.0"]),
        ("nvidia-233", ["0000:d8:00.0"]),
    ]
    assert not plan.keeps_published


def test_type_name_that_the_card_does_not_offer_is_a_problem(cards):
    assert problems_of("{A40-8Q: ['0000:84:00.0']}", cards("t4-pair")) == (
        Problem(
            ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:84:00.0"), vgpu_type="A40-8Q"
        ),
    )


def test_functions_lost_at_boot_belong_to_this_host(cards):
    gone = recorded.without_functions("a40-mdev")["functions"]
    plan = planned(
        "{nvidia-558: ['0000:41:00.4', '0000:41:00.5']}", cards("a40-mdev", functions=gone)
    )
    assert plan.keeps_published
    assert [str(address) for address in plan.preparation.enable] == ["0000:41:00.0"]


def test_functions_are_not_enabled_for_devices_on_the_card_itself(cards):
    (card, _) = cards("t4-pair")
    late = Card(
        card.gpu._replace(total_vfs=16),
        None,
        lost_types=card.types[:1],
        guest_vgpus=((card.gpu.address, card.types[0].id),),
    )
    assert make_plan((), (late,)) == Plan()
    elsewhere = late._replace(
        guest_vgpus=((card.gpu.address._replace(function=4), card.types[0].id),)
    )
    assert make_plan((), (elsewhere,)).preparation.enable == (card.gpu.address,)


def test_functions_on_another_bus_belong_to_another_host(cards):
    gone = recorded.without_functions("a40-mdev")["functions"]
    plan = planned("{nvidia-558: ['0000:42:00.4']}", cards("a40-mdev", functions=gone))
    assert (plan.keeps_published, plan.preparation.enable, plan.assignments) == (False, (), ())


def test_card_whose_functions_report_no_types_is_not_published(cards):
    silent = [
        {**card, "sriov": {**card["sriov"], "framework": None}}
        for card in recorded.host("a40-mdev")["functions"]
    ]
    assert problems_of("{nvidia-558: ['41:00.0']}", cards("a40-mdev", functions=silent)) == (
        Problem(
            ProblemKind.TYPES_UNKNOWN, PciAddress.parse("0000:41:00.0"), vgpu_type="nvidia-558"
        ),
    )


def test_single_type_is_offered_on_the_other_functions_of_a_card(cards):
    plan = planned("{nvidia-558: ['0000:41:00.4']}", cards("a40-mdev"), "25.2.1")
    assert plan.notes == (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova="25.2.1", vgpu_type="nvidia-558"),
    )


def test_type_in_use_by_guests_is_not_replaced(cards):
    (first, second) = cards("t4-pair")
    used = first._replace(in_use=("a-uuid",), guest_vgpus=((first.gpu.address, "nvidia-233"),))
    assert problems_of("{T4-4Q: ['10de:1eb8']}", (used, second)) == (
        Problem(
            ProblemKind.GUESTS_USE_OTHER_TYPE,
            PciAddress.parse("0000:84:00.0"),
            vgpu_type="nvidia-233",
        ),
    )
    assert planned("{T4-8Q: ['10de:1eb8']}", (used, second)).problems == ()


def test_type_name_waits_until_types_are_known(cards):
    assert problems_of("{T4-8Q: ['0000:84:00.0']}", cards("t4-fresh")) == (
        Problem(ProblemKind.TYPES_UNKNOWN, PciAddress.parse("0000:84:00.0"), vgpu_type="T4-8Q"),
    )


@pytest.mark.parametrize("word", ["nvidia-470", "A100-8C"])
def test_card_without_virtual_functions_offers_nothing(cards, word):
    assert problems_of(f"{{{word}: ['0000:41:00.0']}}", cards("a100-sriov-off")) == (
        Problem(ProblemKind.VFS_DISABLED, PciAddress.parse("0000:41:00.0")),
    )


@pytest.mark.parametrize("wanted", ["nvidia-1148", "L40S-2Q"])
def test_vendor_specific_vfio_is_never_published_as_mdev(cards, wanted):
    text = f"{{{wanted}: ['0000:3d:00.0']}}"
    plan = planned(text, cards("l40s-vendor-vfio"), "31.0.0")
    assert plan.notes == (
        Problem(ProblemKind.TYPE_NOT_SET, PciAddress.parse("0000:3d:00.0"), vgpu_type=wanted),
    )
    assert (plan.assignments, plan.preparation.is_pending) == ((), True)


def test_vendor_specific_vfio_needs_nova_31(cards):
    plan = planned("{L40S-2Q: ['0000:3d:00.0']}", cards("l40s-vendor-vfio"), "30.1.0")
    assert plan.problems[0] == Problem(
        ProblemKind.VARIANT_DRIVER_UNSUPPORTED, PciAddress.parse("0000:3d:00.0"), nova="30.1.0"
    )
    assert (
        plan.keeps_published,
        plan.preparation.type_assignments,
        plan.preparation.is_pending,
    ) == (True, (), False)


def test_two_types_on_one_vendor_vfio_card_are_rejected(cards):
    text = "{L40S-2Q: ['3d:00.4'], L40S-2A: ['3d:00.5']}"
    plan = planned(text, cards("l40s-vendor-vfio"), "31.0.0")
    assert (
        Problem(
            ProblemKind.TWO_TYPES_ON_CARD,
            PciAddress.parse("0000:3d:00.0"),
            first="L40S-2Q",
            second="L40S-2A",
        )
        in plan.problems
    )
    assert (plan.keeps_published, plan.preparation.type_assignments) == (True, ())


def test_type_mapped_by_id_and_by_name_is_rejected(cards):
    text = "{nvidia-233: ['0000:84:00.0'], T4-8Q: ['0000:d8:00.0']}"
    assert problems_of(text, cards("t4-pair")) == (
        Problem(ProblemKind.TYPE_MAPPED_TWICE, vgpu_type="nvidia-233"),
    )


def test_card_in_two_types_is_rejected(cards):
    text = "{T4-8Q: ['10de:1eb8'], T4-8A: ['0000:d8:00.0']}"
    assert problems_of(text, cards("t4-pair")) == (
        Problem(
            ProblemKind.DEVICE_MAPPED_TWICE,
            device="0000:d8:00.0",
            first="nvidia-233",
            second="nvidia-228",
        ),
    )


def test_virtual_function_in_two_types_is_rejected(cards):
    text = "{A40-2Q: ['0000:41:00.0'], A40-2A: ['0000:41:00.5']}"
    assert problems_of(text, cards("a40-mdev")) == (
        Problem(
            ProblemKind.DEVICE_MAPPED_TWICE,
            device="0000:41:00.5",
            first="nvidia-558",
            second="nvidia-568",
        ),
    )


TWO_SIZES = "{A40-2Q: ['0000:41:00.4'], A40-4Q: ['0000:41:00.5']}"


def with_mode(cards, mode):
    return tuple(card._replace(mode=mode) for card in cards)


def test_two_sizes_on_one_card_need_mixed_size_mode(cards):
    """The driver refuses the second size once a vGPU of the first exists."""
    plan = planned(TWO_SIZES, cards("a40-mdev"))
    assert plan.problems == (
        Problem(ProblemKind.MIXED_SIZE_PENDING, PciAddress.parse("0000:41:00.0")),
    )
    words = ("A40-2Q", "A40-4Q")
    address = cards("a40-mdev")[0].gpu.address
    assert plan.preparation.partitionings == (
        Partitioning(address, mixed_size=True, requested_types=words),
    )
    assert (plan.keeps_published, plan.preparation.is_pending) == (True, True)

    mixed = planned(TWO_SIZES, with_mode(cards("a40-mdev"), CardMode(mixed_size=True)))
    assert (mixed.problems, mixed.keeps_published, mixed.preparation.is_pending) == (
        (),
        False,
        False,
    )


def test_two_sizes_are_rejected_without_mixed_size_mode(cards):
    plan = planned(TWO_SIZES, with_mode(cards("a40-mdev"), CardMode(mixed_size=None)))
    assert plan.problems == (
        Problem(
            ProblemKind.MIXED_SIZES,
            PciAddress.parse("0000:41:00.0"),
            vgpu_types="A40-2Q and A40-4Q",
        ),
    )
    assert (plan.keeps_published, plan.preparation.is_pending) == (True, False)


def test_plain_types_of_two_sizes_are_noted_and_published(cards):
    text = "{nvidia-558: ['0000:41:00.4'], nvidia-560: ['0000:41:00.5']}"
    plan = planned(text, cards("a40-mdev"))
    assert plan.notes == (
        Problem(
            ProblemKind.MIXED_SIZE_NEEDED,
            PciAddress.parse("0000:41:00.0"),
            vgpu_types="nvidia-558 and nvidia-560",
        ),
    )
    assert (plan.keeps_published, plan.preparation.is_pending) == (False, True)


def test_mixed_size_mode_is_switched_off_for_one_size(cards):
    mixed = with_mode(cards("a40-mdev"), CardMode(mixed_size=True))
    plan = planned("{A40-2Q: ['10de:2235']}", mixed)
    step = Partitioning(mixed[0].gpu.address, requested_types=("A40-2Q",))
    assert (plan.preparation.partitionings, plan.preparation.is_pending) == ((step,), True)


# MIG-backed types

MIG_TYPES = (
    VgpuType("nvidia-474", "GRID A100-1-5C", max_instances=7, gpu_instance_profile=19),
    VgpuType("nvidia-476", "GRID A100-3-20C", max_instances=2, gpu_instance_profile=9),
    VgpuType("nvidia-706", "GRID A100-1-5CME", max_instances=1, gpu_instance_profile=20),
)


def a100(cards, instances, enabled=16):
    """An A100 with so many GPU instances by profile, as the boot service left it."""
    (data,) = recorded.host("a100-sriov-off")["functions"]
    mig = {"enabled": bool(instances), "instances": instances}
    changed = {**data, "mig": mig, "sriov": {**data["sriov"], "enabled": enabled}}
    (card,) = cards("a100-sriov-off", functions=[changed])
    return (
        card._replace(
            known_types=MIG_TYPES, mode=CardMode(tuple(sorted(instances)), types_queried=True)
        ),
    )


@pytest.mark.parametrize("word", ["A100-1-5C", "GRID A100-1-5C", "nvidia-474"])
def test_mig_backed_type_requests_gpu_instances(cards, word):
    plan = planned(f"{{{word}: {{devices: ['10de:20f1']}}}}", a100(cards, []))
    (step,) = plan.preparation.partitionings
    assert step.instance_requests == (InstanceRequest(word),)
    assert (plan.keeps_published, plan.preparation.is_pending) == (True, True)
    assert plan.problems == (
        Problem(ProblemKind.INSTANCES_MISSING, PciAddress.parse("0000:41:00.0"), vgpu_type=word),
    )


def test_mig_backed_type_is_recognised_before_types_are_known(cards):
    (card,) = cards("a100-sriov-off")
    plan = planned("{A100-1-5C: ['10de:20f1']}", (card,))
    wish, words = InstanceRequest("A100-1-5C"), ("A100-1-5C",)
    assert plan.preparation.partitionings == (
        Partitioning(card.gpu.address, (wish,), requested_types=words),
    )
    assert plan.preparation.enable == (card.gpu.address,)


def test_published_functions_do_not_exceed_the_gpu_instances(cards):
    """Each of the 16 virtual functions says that it has room for one."""
    plan = planned("{A100-1-5C: ['10de:20f1']}", a100(cards, [19] * 7))
    ((type_id, addresses),) = offered(plan)
    assert (type_id, len(addresses)) == ("nvidia-474", 7)
    assert (plan.problems, plan.preparation.is_pending) == ((), False)


def test_missing_gpu_instances_are_pending(cards):
    assert planned("{A100-1-5C: ['10de:20f1']}", a100(cards, [19] * 3)).preparation.is_pending
    text = "{A100-1-5C: {devices: ['10de:20f1'], max-instances: 3}}"
    plan = planned(text, a100(cards, [19] * 3))
    assert not plan.preparation.is_pending
    assert len(offered(plan)[0][1]) == 3


def test_card_in_use_keeps_its_gpu_instances(cards):
    (card,) = a100(cards, [19] * 7)
    used = card._replace(
        in_use=("a-uuid",), guest_vgpus=((card.gpu.virtual_functions[0], "nvidia-474"),)
    )
    plan = planned("{A100-20C: ['10de:20f1']}", (used,))
    assert not plan.preparation.is_pending
    assert (
        Problem(
            ProblemKind.GUESTS_USE_OTHER_TYPE,
            PciAddress.parse("0000:41:00.0"),
            vgpu_type="nvidia-474",
        )
        in plan.problems
    )


def test_time_sliced_type_removes_the_gpu_instances(cards):
    plan = planned("{A100-20C: ['10de:20f1']}", a100(cards, [19] * 7))
    assert (plan.preparation.partitionings[0].instance_requests, plan.preparation.is_pending) == (
        (),
        True,
    )


def test_one_card_is_never_time_sliced_and_mig_backed(cards):
    functions = [str(each) for each in a100(cards, [])[0].gpu.virtual_functions]
    text = f"{{A100-20C: ['{functions[0]}'], A100-1-5C: ['{functions[1]}']}}"
    plan = planned(text, a100(cards, []))
    assert plan.problems[-1] == Problem(
        ProblemKind.MIG_AND_TIME_SLICED,
        PciAddress.parse("0000:41:00.0"),
        first="A100-20C",
        second="A100-1-5C",
    )
    assert (plan.keeps_published, plan.preparation.partitionings) == (True, ())


def test_mig_backed_type_of_a_card_without_sriov_is_not_offered(cards):
    assert problems_of("{T4-1-5C: ['10de:1eb8']}", cards("t4-pair"))[0] == Problem(
        ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:84:00.0"), vgpu_type="T4-1-5C"
    )


# No more than the card holds, and no fewer


def test_too_few_virtual_functions_are_noted(cards):
    """sriov-manage may enable but some of them."""
    (card,) = recorded.host("a40-mdev")["functions"]
    few = {**card, "sriov": {**card["sriov"], "enabled": 3}}
    plan = planned("{A40-8Q: ['10de:2235']}", cards("a40-mdev", functions=[few]))
    assert plan.notes == (
        Problem(
            ProblemKind.TOO_FEW_FUNCTIONS,
            PciAddress.parse("0000:41:00.0"),
            count="3",
            vgpu_type="A40-8Q",
        ),
    )
    assert (len(offered(plan)[0][1]), plan.keeps_published) == (3, False)


def test_functions_with_a_vgpu_stay_published(cards):
    (card,) = cards("a40-mdev")
    last = card.gpu.virtual_functions[-1]
    used = card._replace(in_use=("a-uuid",), guest_vgpus=((last, "nvidia-562"),))
    plan = planned("{A40-8Q: ['10de:2235']}", (used,))
    assert offered(plan) == [("nvidia-562", [*A40_FUNCTIONS[:5], str(last)])]


def test_limit_restricts_the_functions_before_nova_29(cards):
    """Nova before 29 has no max_instances, but goes by the addresses of several types."""
    text = "{A40-2Q: {devices: ['10de:2235'], max-instances: 3}, T4-8Q: ['10de:1eb8']}"
    plan = planned(text, cards("mixed"), YOGA)
    assert offered(plan)[0] == ("nvidia-558", A40_FUNCTIONS[:3])
    assert plan.problems == ()
    sections = nova_conf.render(plan.assignments, NovaVersion.parse(YOGA))
    assert sections["mdev_nvidia-558"] == [("device_addresses", ",".join(A40_FUNCTIONS[:3]))]


def test_limit_is_split_across_the_cards(cards):
    text = "{A16-8Q: {devices: ['10de:25b6'], max-instances: 5}}"
    plan = planned(text, cards("a16-board"), CARACAL)
    assert [address[5:7] for address in offered(plan)[0][1]] == ["ce", "ce", "cf", "cf", "d0"]


def test_type_is_found_although_the_driver_omits_its_suffix(cards):
    """Blackwell's graphics types: the driver lists DC-1-24Q, NVIDIA's tools say DC-1-24QGFX."""
    (card,) = cards("rtx-pro-6000")
    told = VgpuType(
        "nvidia-1561", "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q", gpu_instance_profile=47
    )
    card = card._replace(known_types=(told,))
    assert card.find_mig_backed_type("DC-1-24QGFX") == told
    (mig,) = a100(cards, [])
    assert mig.find_mig_backed_type("A100-1-5CME").id == "nvidia-706"


@pytest.mark.parametrize("suffix", ["ME", "MEALL", "NOME", "me", "GFX"])
def test_longest_suffix_is_ignored(cards, suffix):
    (mig,) = a100(cards, [])
    assert mig.find_mig_backed_type(f"A100-3-20C{suffix}").id == "nvidia-476"


def test_one_name_with_two_ids_is_two_types(cards):
    """Ids are unique within one card only."""
    first, second = cards("t4-pair")
    types = [known._replace(id="nvidia-999") if known.id == "nvidia-233" else known
             for known in second.types]  # fmt: skip
    plan = planned("{T4-8Q: ['10de:1eb8']}", (first, second._replace(types=tuple(types))))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0"]), ("nvidia-999", ["0000:d8:00.0"])]


@pytest.mark.parametrize(("is_reported", "problems"), [(False, 1), (True, 0)])
def test_two_types_of_one_model_need_placement(cards, is_reported, problems):
    (card,) = recorded.host("l40s-vendor-vfio")["functions"]
    pair = cards("l40s-vendor-vfio", functions=[card, {**card, "address": "0000:c1:00.0"}])
    plan = make_plan(requests("{L40S-24Q: ['3d:00.0'], L40S-48Q: ['c1:00.0']}"), pair)
    nova = NovaVersion(31)
    found = apply_release(plan, pair, nova, VariantDriverOptions(report_in_placement=is_reported))
    ambiguous = Problem(ProblemKind.ALIAS_AMBIGUOUS, first="L40S-24Q", second="L40S-48Q")
    assert found.problems == (ambiguous,) * problems
    assert bool(found.preparation.type_assignments) is is_reported


def test_functions_of_one_card_may_mix_series_of_one_size(cards):
    plan = planned("{A40-2Q: ['0000:41:00.4'], A40-2A: ['0000:41:00.5']}", cards("a40-mdev"))
    assert offered(plan) == [("nvidia-558", ["0000:41:00.4"]), ("nvidia-568", ["0000:41:00.5"])]
    assert plan.problems == ()


def test_two_cards_may_have_two_sizes(cards):
    plan = planned("{T4-8Q: ['0000:84:00.0'], T4-4Q: ['0000:d8:00.0']}", cards("t4-pair"))
    assert plan.problems == ()


# What the installed Nova makes of it

TWO_TYPES = "{nvidia-35: ['0000:99:00.0'], nvidia-233: ['0000:84:00.0']}"


@pytest.mark.parametrize("nova", ["17.0.13", "20.6.1", "21.2.4", "22.0.0", "22.2.0"])
def test_local_type_is_first_before_nova_22_2_1(cards, nova):
    plan = planned(TWO_TYPES, cards("t4-pair"), nova)
    assert [type_id for type_id, _ in offered(plan)] == ["nvidia-233", "nvidia-35"]
    assert plan.notes == (
        Problem(ProblemKind.FIRST_TYPE_ONLY, nova=f"{nova}", vgpu_type="nvidia-233"),
    )
    assert not plan.keeps_published


@pytest.mark.parametrize("nova", ["22.2.1", "23.0.0", "28.0.0", "34.0.0"])
def test_order_of_types_is_kept_from_nova_22_2_1(cards, nova):
    plan = planned(TWO_TYPES, cards("t4-pair"), nova)
    assert [type_id for type_id, _ in offered(plan)] == ["nvidia-35", "nvidia-233"]
    assert plan.problems == ()


@pytest.mark.parametrize("nova", ["17.0.13", "21.2.4", "22.2.1", "28.3.0"])
def test_single_type_is_offered_on_every_card_before_nova_29(cards, nova):
    plan = planned("{nvidia-233: ['0000:84:00.0']}", cards("t4-pair"), nova)
    assert plan.notes == (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova=f"{nova}", vgpu_type="nvidia-233"),
    )
    assert not plan.keeps_published


@pytest.mark.parametrize(
    ("name", "text", "nova"),
    [
        ("t4-pair", "{nvidia-233: ['0000:84:00.0']}", CARACAL),
        ("t4-pair", "{nvidia-233: ['0000:84:00.0', '0000:d8:00.0']}", YOGA),
        ("mixed", "{nvidia-233: ['0000:3b:00.0']}", YOGA),
    ],
    ids=["Nova 29", "all cards are named", "the other cards lack the type"],
)
def test_single_type_without_effect_on_other_cards_is_not_noted(cards, name, text, nova):
    assert planned(text, cards(name), nova).problems == ()


def test_single_local_type_is_offered_on_every_card_before_nova_29(cards):
    text = "{A40-2Q: ['10de:2235'], T4-8Q: ['0000:84:00.0']}"
    plan = planned(text, cards("t4-pair"), YOGA)
    assert plan.notes == (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova="25.2.1", vgpu_type="nvidia-233"),
    )


def with_option(option, device="10de:1eb8"):
    return f"{{T4-8Q: {{devices: ['{device}'], {option}}}}}"


@pytest.mark.parametrize(
    ("option", "nova", "problem"),
    [
        (
            "resource-class: CUSTOM_A",
            "23.2.2",
            Problem(
                ProblemKind.OPTION_UNSUPPORTED,
                option="resource-class",
                required="24",
                nova="23.2.2",
            ),
        ),
        (
            "resource-class: CUSTOM_A",
            "24.0.0",
            Problem(
                ProblemKind.OPTION_IGNORED, option="resource-class", required="29", nova="24.0.0"
            ),
        ),
        (
            "resource-class: CUSTOM_A",
            "28.3.0",
            Problem(
                ProblemKind.OPTION_IGNORED, option="resource-class", required="29", nova="28.3.0"
            ),
        ),
        (
            "max-instances: 4",
            "28.3.0",
            Problem(
                ProblemKind.OPTION_UNSUPPORTED,
                option="max-instances",
                required="29",
                nova="28.3.0",
            ),
        ),
    ],
)
def test_option_that_nova_does_not_support_is_a_problem(cards, option, nova, problem):
    assert problems_of(with_option(option), cards("t4-pair"), nova) == (problem,)


@pytest.mark.parametrize(
    ("option", "nova"), [("resource-class: CUSTOM_A", "29.0.0"), ("max-instances: 4", "29.0.0")]
)
def test_option_is_supported_from_nova_29(cards, option, nova):
    assert planned(with_option(option), cards("t4-pair"), nova).problems == ()


def test_resource_class_of_several_types_is_supported_from_nova_24(cards):
    text = "{T4-8Q: {devices: ['84:00.0'], resource-class: CUSTOM_A}, T4-4Q: ['d8:00.0']}"
    assert planned(text, cards("t4-pair"), "24.0.0").problems == ()


def test_limit_below_one_card_drops_the_card(cards):
    assert problems_of(with_option("max-instances: 1", "84:00.0"), cards("t4-pair")) == (
        Problem(
            ProblemKind.MAX_INSTANCES_DROPS_CARD,
            PciAddress.parse("0000:84:00.0"),
            limit="1",
            room="2",
        ),
    )


def test_limit_below_one_card_is_valid_for_virtual_functions(cards):
    text = "{A40-2Q: {devices: ['10de:2235'], max-instances: 5}}"
    assert planned(text, cards("a40-mdev")).problems == ()


def test_limit_between_multiples_drops_a_card(cards):
    assert problems_of(with_option("max-instances: 3"), cards("t4-pair")) == (
        Problem(
            ProblemKind.MAX_INSTANCES_DROPS_CARD,
            PciAddress.parse("0000:d8:00.0"),
            limit="3",
            room="2",
        ),
    )


@pytest.mark.parametrize("limit", [2, 4, 5])
def test_limit_for_complete_cards_is_valid(cards, limit):
    assert planned(with_option(f"max-instances: {limit}"), cards("t4-pair")).problems == ()


def test_nova_before_queens_does_not_support_vgpus(cards):
    assert problems_of("{nvidia-233: ['0000:84:00.0']}", cards("t4-pair"), "16.1.8") == (
        Problem(ProblemKind.NOVA_TOO_OLD, nova="16.1.8"),
    )


def test_future_nova_is_treated_like_the_newest(cards):
    text, found = with_option("max-instances: 4, resource-class: CUSTOM_A"), cards("t4-pair")
    assert planned(text, found, "41.0.0") == planned(text, found, "34.0.0")
