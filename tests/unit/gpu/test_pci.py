# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""PCI addresses and PCI IDs as text and as values."""

from __future__ import annotations

import pytest

from gpu.pci import PciAddress, PciId


@pytest.mark.parametrize(
    "text",
    ["0000:af:00.0", "0000:AF:00.0", "af:00.0", "AF:00.0", "00000000:af:00.0"],
    ids=["full", "full, upper case", "short", "short, upper case", "as nvidia-smi writes it"],
)
def test_address_is_normalised(text):
    assert str(PciAddress.parse(text)) == "0000:af:00.0"


def test_domain_of_five_digits_is_kept():
    assert str(PciAddress.parse("10000:01:1f.7")) == "10000:01:1f.7"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "84:00",
        "0:84:00.0",
        "0000:84:00.8",
        "0000:84:20.0",
        "0000:84:00.0\n",
        " 0000:84:00.0",
        "0000:84:00.0,0000:85:00.0",
        "0000:8g:00.0",
        "000000000:84:00.0",
        "\u0660\u0660\u0660\u0660:84:00.0",
        "10de:1eb8",
    ],
)
def test_invalid_address_is_rejected(text):
    with pytest.raises(ValueError) as error:
        PciAddress.parse(text)
    assert str(error.value) == f"not a PCI address: {text!r}"


def test_addresses_are_sorted_as_numbers():
    written = ["10000:01:00.0", "0000:c1:00.0", "0000:0a:00.1", "0000:0a:00.0"]
    assert [str(address) for address in sorted(map(PciAddress.parse, written))] == [
        "0000:0a:00.0",
        "0000:0a:00.1",
        "0000:c1:00.0",
        "10000:01:00.0",
    ]


def test_pci_id_is_normalised_to_lower_case():
    assert str(PciId.parse("10DE:1EB8")) == "10de:1eb8"


@pytest.mark.parametrize(
    "text", ["", "10de", "10de:1eb8\n", "10de:1eb", "10de:1eb8:0", "\uff11ade:1eb8"]
)
def test_invalid_pci_id_is_rejected(text):
    with pytest.raises(ValueError) as error:
        PciId.parse(text)
    assert str(error.value) == f"not a PCI id: {text!r}"
