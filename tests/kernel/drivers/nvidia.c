/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* In place of NVIDIA's driver: binds every NVIDIA GPU, including virtual functions. */
#include <linux/pci.h>

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(0x10de, PCI_ANY_ID), PCI_CLASS_DISPLAY_VGA << 8, ~0 },
	{ PCI_DEVICE(0x10de, PCI_ANY_ID), PCI_CLASS_DISPLAY_3D << 8, ~0 },
	{ }
};
MODULE_DEVICE_TABLE(pci, ids);
MODULE_VERSION("570.172.07");

#include "card_driver.h"
