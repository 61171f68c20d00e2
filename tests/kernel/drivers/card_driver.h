/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A driver that has the name of a vendor's: it binds the cards and creates virtual functions.
 *
 * Two parameters, which can also be written in /sys/module/NAME/parameters, cause faults. Each has
 * the address of one card: `refuse`, whose probe fails, and `in_use`, whose removal waits until
 * the parameter has another value, as NVIDIA's driver waits for the programs that use a card.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *refuse = "";
module_param(refuse, charp, 0644);
MODULE_PARM_DESC(refuse, "address of a card whose probe fails");

static char *in_use = "";
module_param(in_use, charp, 0644);
MODULE_PARM_DESC(in_use, "address of a card whose removal waits");

static bool names(char **parameter, struct pci_dev *card)
{
	bool same;

	kernel_param_lock(THIS_MODULE);
	same = sysfs_streq(*parameter, pci_name(card));
	kernel_param_unlock(THIS_MODULE);
	return same;
}

static int probe(struct pci_dev *card, const struct pci_device_id *id)
{
	if (names(&refuse, card))
		return -EIO;
	pci_info(card, "bound\n");
	return pci_enable_device(card);
}

static void remove(struct pci_dev *card)
{
	while (names(&in_use, card))
		msleep(50);
	pci_disable_sriov(card);
	pci_disable_device(card);
	pci_info(card, "unbound\n");
}

static struct pci_driver card_driver = {
	.name = KBUILD_MODNAME,
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.sriov_configure = pci_sriov_configure_simple,
};
module_pci_driver(card_driver);
MODULE_LICENSE("GPL");
