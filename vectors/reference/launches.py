"""What is measured in a launch, and the secrets for it (SEV API 6.3 to 6.6; QEMU, KVM)."""
import struct
import uuid

from .basics import hmac_sha256, le32, require, sha256, success


def measure(f, mnonce):
    version = f["version"]
    head = bytes([4, version["major"], version["minor"], version["build"]])
    if (version["major"], version["minor"]) < (0, 17):
        head = b""
    return hmac_sha256(f.bytes("tik"), head + le32(f["policy"]) + f.bytes("digest") + mnonce)


def op_measurement(f):
    return success(measure=measure(f, f.bytes("mnonce")))


def op_measurement_verify(f):
    answer = f.bytes("answer")
    require(len(answer) == 48, "INVALID_LENGTH")
    require(measure(f, answer[32:]) == answer[:32], "BAD_MEASUREMENT")
    return success()


def guid(text):
    return uuid.UUID(text).bytes_le


def kernel_hashes(f):
    command_line = f["commandLine"].encode("ascii") + b"\x00"
    hashed = (
        ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", command_line),
        ("44baf731-3a2f-4bd7-9af1-41e29169781d", f.bytes("initrd")),
        ("4de79437-abd2-427f-b835-d5b172d2045b", f.bytes("kernel")),
    )
    entries = b"".join(guid(name) + struct.pack("<H", 50) + sha256(data) for name, data in hashed)
    table = guid("9438d606-4f22-4cc9-b479-a793d411fd21") + struct.pack("<H", 18 + len(entries)) + entries
    return table.ljust(176, b"\x00")


def op_kernel_hashes(f):
    return success(table=kernel_hashes(f))


def initial_vmsa(f):
    page, reset = bytearray(4096), f["resetVector"]

    def put(offset, form, *values):
        struct.pack_into("<" + form, page, offset, *values)

    for offset in (0x00, 0x20, 0x30, 0x40, 0x50):  # ES, SS, DS, FS, GS
        put(offset, "HHIQ", 0, 0x93, 0xFFFF, 0)
    put(0x10, "HHIQ", 0xF000, 0x9B, 0xFFFF, reset & 0xFFFF0000)  # CS
    for offset, attributes in ((0x60, 0), (0x70, 0x82), (0x80, 0), (0x90, 0x8B)):  # GDTR, LDTR, IDTR, TR
        put(offset, "HHIQ", 0, attributes, 0xFFFF, 0)
    put(0x0D0, "Q", 0x1000)  # EFER
    put(0x148, "Q", 0x40)  # CR4
    put(0x158, "Q", 0x10)  # CR0
    put(0x160, "QQ", 0x400, 0xFFFF0FF0)  # DR7, DR6
    put(0x170, "QQ", 2, reset & 0xFFFF)  # RFLAGS, RIP
    put(0x268, "Q", 0x0007040600070406)  # G_PAT
    put(0x310, "Q", f["cpuSignature"])  # RDX
    put(0x3E8, "Q", 1)  # XCR0
    if f["fpuInit"]:
        put(0x408, "I", 0x1F80)  # MXCSR
        put(0x410, "H", 0x37F)  # FCW
    return bytes(page)


def op_initial_vmsa(f):
    return success(vmsa=initial_vmsa(f))


def op_launch_digest(f):
    parts = [f.bytes("firmware")]
    if "boot" in f:
        parts.append(kernel_hashes(f.fields("boot")))
    if "vcpus" in f:
        parts += [initial_vmsa(cpu) for cpu in f.list("vcpus")]
    return success(digest=sha256(b"".join(parts)))


def op_secret_table(f):
    def entry(name, data):
        return guid(name) + le32(20 + len(data)) + data

    entries = b"".join(entry(e["guid"], e.bytes("data")) for e in f.list("entries"))
    table = entry("1e74f542-71dd-4d66-963e-ef4287ff173b", entries)
    return success(table=table + bytes(-len(table) % 16))
