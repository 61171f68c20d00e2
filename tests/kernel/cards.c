/* Copyright 2026 the nova-compute-nvidia-vgpu authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCIe cards with any ids for qemu-system-x86_64, as a library that is preloaded:
 *
 *   CARDS="a100=10de:20b5:0302:16 nvswitch=10de:22a3:0680:0" LD_PRELOAD=cards.so \
 *       qemu-system-x86_64 ... -device card-a100,bus=rp1
 *
 * A card is NAME=VENDOR:DEVICE:CLASS:VFS[:VFDEVICE[:SUBDEVICE]]. It has a configuration space, two
 * BARs without anything behind them and, if VFS is not 0, SR-IOV. QEMU's source is not needed:
 * Debian's QEMU exports the functions that its own modules call. It works with 7.2 and 10.0.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CARDS 32

typedef struct {
    const char *name;
} Interface;

/* QEMU's TypeInfo. */
typedef struct {
    const char *name, *parent;
    size_t instance_size, instance_align;
    void (*instance_init)(void *), (*instance_post_init)(void *), (*instance_finalize)(void *);
    _Bool abstract;
    size_t class_size;
    void (*class_init)(void *, void *), (*class_base_init)(void *, void *);
    void *class_data;
    Interface *interfaces;
} TypeInfo;

/* A part of QEMU's PCIDeviceClass. */
typedef struct {
    void (*realize)(void *, void **);
    void (*exit)(void *);
    uint32_t (*config_read)(void *, uint32_t, int);
    void (*config_write)(void *, uint32_t, uint32_t, int);
    uint16_t vendor, device;
    uint8_t revision;
    uint16_t class, subvendor, subdevice;
} PciClass;

typedef struct {
    unsigned vendor, device, class, vfs, vf_device, subdevice;
    char name[64], vf_name[72];
} Card;

void *type_register_static(const TypeInfo *info);
void *object_class_by_name(const char *name);
const char *object_get_typename(void *object);
void memory_region_init_io(void *region, void *owner, const void *operations, void *opaque,
                           const char *name, uint64_t size);
void pci_register_bar(void *device, int number, uint8_t type, void *region);
void pci_default_write_config(void *device, uint32_t address, uint32_t value, int size);
int pcie_endpoint_cap_init(void *device, uint8_t offset);
void pcie_ari_init(void *device, uint16_t offset, uint16_t next_function);
void pcie_cap_flr_init(void *device);
void pcie_cap_flr_write_config(void *device, uint32_t address, uint32_t value, int size);
void pcie_sriov_pf_init(void *device, uint16_t offset, const char *vf_name, uint16_t vf_device,
                        uint16_t initial, uint16_t total, uint16_t vf_offset, uint16_t stride,
                        void **error);
void pcie_sriov_pf_init_vf_bar(void *device, int number, uint8_t type, uint64_t size);
void pcie_sriov_vf_register_bar(void *device, int number, void *region);

enum { CAPABILITY = 0x80, ARI = 0x100, SRIOV = 0x120 };
enum { BAR_32 = 0, BAR_64_PREFETCHABLE = 0x0c };

static Card cards[MAX_CARDS];
static int count;

static void fail(const char *text, const char *what)
{
    fprintf(stderr, "cards: %s%s\n", text, what);
    exit(70);
}

static void *memory(void *owner, uint64_t size)
{
    void *region = calloc(1, 4096); /* larger than MemoryRegion in any release */
    memory_region_init_io(region, owner, NULL, NULL, "card", size);
    return region;
}

static Card *card_of(void *device)
{
    const char *name = object_get_typename(device);
    for (Card *card = cards; card < cards + count; card++)
        if (!strcmp(name, card->name) || !strcmp(name, card->vf_name))
            return card;
    abort();
}

static void write_config(void *device, uint32_t address, uint32_t value, int size)
{
    pci_default_write_config(device, address, value, size);
    pcie_cap_flr_write_config(device, address, value, size);
}

static void realize(void *device, void **error)
{
    Card *card = card_of(device);
    pci_register_bar(device, 0, BAR_32, memory(device, 1 << 16));
    pci_register_bar(device, 2, BAR_64_PREFETCHABLE, memory(device, 1 << 20));
    pcie_endpoint_cap_init(device, CAPABILITY);
    if (card->vfs) {
        pcie_ari_init(device, ARI, 1);
        pcie_sriov_pf_init(device, SRIOV, card->vf_name, card->vf_device, card->vfs, card->vfs, 4,
                           1, NULL);
        pcie_sriov_pf_init_vf_bar(device, 0, BAR_32, 1 << 12);
    } else {
        pcie_cap_flr_init(device);
    }
}

static void realize_vf(void *device, void **error)
{
    pcie_sriov_vf_register_bar(device, 0, memory(device, 1 << 12));
    pcie_endpoint_cap_init(device, CAPABILITY);
    pcie_cap_flr_init(device);
    pcie_ari_init(device, ARI, 1);
}

/* Find where PciClass is in a class, from a device whose ids are known. */
static PciClass *pci_class(void *class)
{
    static long offset;
    char *known = object_class_by_name("e1000e");
    for (long at = 0; known && !offset && at < 1024; at += 8) {
        PciClass *part = (PciClass *)(known + at);
        if (part->vendor == 0x8086 && part->device == 0x10d3 && part->class == 0x0200)
            offset = at;
    }
    if (!offset)
        fail("this QEMU has another layout", "");
    return (PciClass *)((char *)class + offset);
}

static void init_class(void *class, const Card *card)
{
    PciClass *part = pci_class(class);
    part->config_write = write_config;
    part->vendor = card->vendor;
    part->class = card->class;
    part->revision = 0xa1;
    part->subvendor = card->vendor;
    part->subdevice = card->subdevice;
}

static void init_card(void *class, void *card)
{
    init_class(class, card);
    pci_class(class)->realize = realize;
    pci_class(class)->device = ((Card *)card)->device;
}

static void init_vf(void *class, void *card)
{
    init_class(class, card);
    pci_class(class)->realize = realize_vf;
    pci_class(class)->device = ((Card *)card)->vf_device;
}

static void add_card(const char *description)
{
    static Interface express[] = {{"pci-express-device"}, {NULL}};
    if (count == MAX_CARDS)
        fail("too many cards", "");
    Card *card = &cards[count++];
    char name[40];
    int fields = sscanf(description, "%39[^=]=%x:%x:%x:%u:%x:%x", name, &card->vendor,
                        &card->device, &card->class, &card->vfs, &card->vf_device,
                        &card->subdevice);
    if (fields < 5)
        fail("not a card: ", description);
    if (!card->vf_device)
        card->vf_device = card->device;
    snprintf(card->name, sizeof card->name, "card-%s", name);
    snprintf(card->vf_name, sizeof card->vf_name, "card-%s-vf", name);
    TypeInfo info = {.parent = "pci-device", .class_data = card, .interfaces = express};
    info.name = card->name;
    info.class_init = init_card;
    type_register_static(&info);
    info.name = card->vf_name;
    info.class_init = init_vf;
    type_register_static(&info);
}

__attribute__((constructor)) static void start(void)
{
    char *list = getenv("CARDS") ? strdup(getenv("CARDS")) : NULL;
    unsetenv("LD_PRELOAD");
    for (char *word = list ? strtok(list, " ") : NULL; word; word = strtok(NULL, " "))
        add_card(word);
}
