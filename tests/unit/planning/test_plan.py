# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Plans: which types are published on which addresses, and the problems of a mapping."""

from __future__ import annotations

import pytest
from plans import (
    A40_FUNCTIONS,
    CARACAL,
    YOGA,
    a100,
    offered,
    planned,
    problems_of,
    requests,
)

import recorded
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from nova_compute import nova_conf
from nova_compute.release import NovaVersion
from planning.plan import Plan, make_plan


def cards_of(plan):
    return [[str(address) for address in assignment.cards] for assignment in plan.assignments]


# Types and devices of a mapping


@pytest.mark.parametrize("requested", ["nvidia-233", "T4-8Q", "GRID T4-8Q", "NVIDIA T4-8Q"])
def test_type_is_resolved_to_the_id_on_this_host(cards, requested):
    plan = planned(f"{{{requested}: ['0000:84:00.0']}}", cards("t4-pair"))
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
@pytest.mark.parametrize("requested", ["nvidia-558", "A40-2Q"])
def test_physical_function_selects_its_virtual_functions(cards, device, requested):
    plan = planned(f"{{{requested}: ['{device}']}}", cards("a40-mdev"))
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
    (assignment,) = planned(text, cards("t4-pair")).assignments
    assert (assignment.max_instances, assignment.resource_class) == (4, "CUSTOM_T4_8Q")


# One mapping for several hosts

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
    ids=["by name", "by PCI ID", "long form"],
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


# Problems of a card keep the published data unchanged


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
    """The address may be meant for another host; the other types stay published."""
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


def test_card_whose_functions_report_no_types_is_not_published(cards):
    without_types = [
        {**card, "sriov": {**card["sriov"], "framework": None}}
        for card in recorded.host("a40-mdev")["functions"]
    ]
    assert problems_of(
        "{nvidia-558: ['41:00.0']}", cards("a40-mdev", functions=without_types)
    ) == (
        Problem(
            ProblemKind.TYPES_UNKNOWN, PciAddress.parse("0000:41:00.0"), vgpu_type="nvidia-558"
        ),
    )


def test_type_name_waits_until_types_are_known(cards):
    assert problems_of("{T4-8Q: ['0000:84:00.0']}", cards("t4-fresh")) == (
        Problem(ProblemKind.TYPES_UNKNOWN, PciAddress.parse("0000:84:00.0"), vgpu_type="T4-8Q"),
    )


@pytest.mark.parametrize("requested", ["nvidia-470", "A100-8C"])
def test_card_without_virtual_functions_offers_nothing(cards, requested):
    assert problems_of(f"{{{requested}: ['0000:41:00.0']}}", cards("a100-sriov-off")) == (
        Problem(ProblemKind.VFS_DISABLED, PciAddress.parse("0000:41:00.0")),
    )


@pytest.mark.parametrize("requested", ["nvidia-1148", "L40S-2Q"])
def test_vendor_specific_vfio_is_never_published_as_mdev(cards, requested):
    text = f"{{{requested}: ['0000:3d:00.0']}}"
    plan = planned(text, cards("l40s-vendor-vfio"), "31.0.0")
    assert plan.notes == (
        Problem(ProblemKind.TYPE_NOT_SET, PciAddress.parse("0000:3d:00.0"), vgpu_type=requested),
    )
    assert (plan.assignments, plan.preparation.is_pending) == ((), True)


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
            option="vgpu-device-mappings",
            device="0000:d8:00.0",
            first="nvidia-233 (T4-8Q)",
            second="nvidia-228 (T4-8A)",
        ),
    )


def test_virtual_function_in_two_types_is_rejected(cards):
    text = "{A40-2Q: ['0000:41:00.0'], A40-2A: ['0000:41:00.5']}"
    assert problems_of(text, cards("a40-mdev")) == (
        Problem(
            ProblemKind.DEVICE_MAPPED_TWICE,
            option="vgpu-device-mappings",
            device="0000:41:00.5",
            first="nvidia-558 (A40-2Q)",
            second="nvidia-568 (A40-2A)",
        ),
    )


# Number of published functions


def test_published_functions_do_not_exceed_the_gpu_instances(cards):
    """Each of the 16 virtual functions reports room for one vGPU."""
    plan = planned("{A100-1-5C: ['10de:20f1']}", a100(cards, [19] * 7))
    ((type_id, addresses),) = offered(plan)
    assert (type_id, len(addresses)) == ("nvidia-474", 7)
    assert (plan.problems, plan.preparation.is_pending) == ((), False)


def test_mig_backed_type_of_a_card_without_sriov_is_not_offered(cards):
    assert problems_of("{T4-1-5C: ['10de:1eb8']}", cards("t4-pair"))[0] == Problem(
        ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:84:00.0"), vgpu_type="T4-1-5C"
    )


def test_functions_with_a_vgpu_stay_published(cards):
    (card,) = cards("a40-mdev")
    last = card.gpu.virtual_functions[-1]
    used = card._replace(in_use=("a-uuid",), guest_vgpus=((last, "nvidia-562"),))
    plan = planned("{A40-8Q: ['10de:2235']}", (used,))
    assert offered(plan) == [("nvidia-562", [*A40_FUNCTIONS[:5], str(last)])]


def test_limit_restricts_the_functions_before_nova_29(cards):
    """Nova before 29 ignores max_instances, and uses the addresses of several types."""
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


def test_one_name_with_two_ids_is_two_types(cards):
    """IDs are unique only within one card."""
    first, second = cards("t4-pair")
    types = [vgpu_type._replace(id="nvidia-999") if vgpu_type.id == "nvidia-233" else vgpu_type
             for vgpu_type in second.types]  # fmt: skip
    plan = planned("{T4-8Q: ['10de:1eb8']}", (first, second._replace(types=tuple(types))))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0"]), ("nvidia-999", ["0000:d8:00.0"])]


def test_card_with_an_address_that_nova_does_not_support_is_left_out(cards):
    """nova-compute would not start with it, as with a card behind Intel VMD."""
    first, second = cards("t4-pair")
    far = second._replace(
        gpu=second.gpu._replace(address=PciAddress(0x10000, 0xD8, 0, 0)),
        parents=(PciAddress(0x10000, 0xD8, 0, 0),),
    )
    plan = planned("{T4-8Q: ['10de:1eb8']}", (first, far))
    assert offered(plan) == [("nvidia-233", ["0000:84:00.0"])]
    assert plan.notes == (Problem(ProblemKind.PCI_DOMAIN_UNSUPPORTED, far.address),)
    assert not plan.keeps_published


def test_host_whose_only_card_has_an_unsupported_address_offers_nothing(cards):
    card, _ = cards("t4-pair")
    far = card._replace(gpu=card.gpu._replace(address=PciAddress(0x10000, 0x84, 0, 0)))
    plan = planned("{T4-8Q: ['10de:1eb8'], nvidia-35: ['0000:99:00.0']}", (far,))
    assert plan.assignments == ()
    assert plan.notes == (Problem(ProblemKind.PCI_DOMAIN_UNSUPPORTED, far.address),)
