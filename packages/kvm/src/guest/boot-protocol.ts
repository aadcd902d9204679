import { bytes, guidToBytes, layout, u32, u64 } from '@cvm/layout';

/**
 * PROJECT: the guest-physical map of our machines and how firmware hands over to the kernel. Everything is identity-mapped,
 * so that these are virtual addresses as well. RAM begins at 0 and ends below 2 GiB; the flash ends at 4 GiB.
 */
export const MemoryMap = {
	/** MEMFD: memory that the firmware owns for good. It is not RAM in the E820 list that the kernel gets. */
	firmware: 0x800000,
	firmwareEnd: 0x1000000,
	secPageTables: 0x800000,
	/** Two pages; the first is shared with the host. */
	ghcb: 0x809000,
	ghcbPages: 2,
	/** Where LAUNCH_SECRET puts the owner's secret, `secretBytes` long. */
	secret: 0x80c000,
	secretBytes: 0xc00,
	apMailbox: 0x80d000,
	/** SEV-ES: the AP jump table, one private page. */
	apJumpTable: 0x80e000,
	variableStore: 0x840000,
	variableStoreBytes: 0x10000,
	/** SEV-ES: shared GHCB pages in which the firmware's vCPUs wait, one per vCPU. */
	apGhcb: 0x860000,
	apGhcbEnd: 0x880000,
	/**
	 * The migration helper's gate: a private u32. While it is not 0 the guest's vCPUs must rest, since the guest is leaving or was
	 * given up. It does not migrate: each machine has its own.
	 */
	helperGate: 0x8bf000,
	/** The guest's own record of what it shares, for its migration helper: a bit per frame from 0 on, 1 = shared. Private. */
	helperSharedMap: 0x8c0000,
	helperSharedMapBytes: 0x10000,
	/** Where a kernel goes that is started by kexec, unless it is told another place. */
	kexecKernel: 0x200000,
	/** Where firmware puts the kernel: from here on, the places of {@link KernelOffset}. */
	bootParams: 0x1000000,
	/** The kernel's own data page. */
	kernelData: 0x1001000,
	kernelPageTables: 0x1010000,
	kernelPageTablesEnd: 0x1100000,
	/** One per vCPU, growing down from `kernelStacks + (index + 1) * kernelStackBytes`. */
	kernelStacks: 0x1100000,
	kernelStackBytes: 0x4000,
	/** One private page per vCPU, for the workload. */
	workloadState: 0x1180000,
	/** `.bss..decrypted`: one 2 MiB leaf, shared from the first page table on. */
	bssDecrypted: 0x1200000,
	bssDecryptedEnd: 0x1400000,
	kernelText: 0x1400000,
	workloadText: 0x1500000,
	/** Where large pages of the low 2 GiB are split: the table of region n is page n, whoever comes first. */
	splitPageTables: 0x1600000,
	splitPageTablesEnd: 0x1a00000,
	/** From here to the end of RAM. */
	workload: 0x2000000,
	firmwareText: 0xffc00000,
	resetVector: 0xfffffff0,
} as const;

/**
 * Where a kernel keeps its memory, from the address that it was loaded at, which is a multiple of 2 MiB. A kernel that
 * firmware started stands at `MemoryMap.bootParams`, one that was started by kexec stands elsewhere.
 */
export const KernelOffset = {
	bootParams: 0,
	data: 0x1000,
	idt: 0x2000,
	idtEnd: 0x3000,
	pageTables: 0x10000,
	pageTablesEnd: 0x100000,
	stacks: 0x100000,
	/** One page per vCPU; the runtime GHCBs of SEV-ES follow. */
	workloadState: 0x180000,
	ghcbs: 0x1a0000,
	ghcbsEnd: 0x1c0000,
	bssDecrypted: 0x200000,
	/** SEV-ES: the GHCB of early boot, in `.bss..decrypted`. */
	bootGhcb: 0x300000,
	end: 0x400000,
} as const;

/** vCPUs that fit the stacks and state pages of {@link MemoryMap}. */
export const MAX_CPUS = 32;

/** 'CVMBOOT1' as a little-endian u64. */
export const BOOT_MAGIC = 0x31544f4f424d5643n;

/** `BootParams.flags`. */
export const BootFlag = {
	efi: 1,
	/** There is a migration helper: the kernel keeps `MemoryMap.helperSharedMap` and obeys `MemoryMap.helperGate`. */
	helper: 2,
} as const;

/** E820 types (ACPI 6.5 §15). */
export const E820Type = { ram: 1, reserved: 2, acpi: 3, nvs: 4 } as const;

/** One E820 entry: 20 bytes, as BIOS INT 15h and fw_cfg `etc/e820` have it. */
export const e820Entry = layout('e820_entry', 20, { addr: u64(0), size: u64(8), type: u32(16) });

/** E820 entries that fit the page. */
export const MAX_E820 = 192;

/** The boot parameters page, before its E820 list. */
export const bootParams = layout('boot_params', 0x100, {
	magic: u64(0),
	ramBytes: u64(8),
	seed: u64(16),
	/** Steps after which the workload stops; 0 = never. */
	stepLimit: u64(24),
	cpus: u32(32),
	/** {@link BootFlag}. */
	flags: u32(36),
	/** ASCII, padded with zeros. */
	workload: bytes(40, 32),
	/** Virtual address of the GetVariable runtime service; 0 without EFI. */
	getVariable: u64(72),
	e820Count: u32(80),
	/** How often the kernel starts another one by kexec, before it wakes the other vCPUs. */
	kexecs: u32(84),
	/** Virtual address where a vCPU ≠ 0 gives itself back to the firmware's waiting loop; 0 if it cannot. */
	apReset: u64(88),
});

/** Where the E820 list begins in the page, and the bytes of one entry. */
export const E820_OFFSET = 0x100;
export const E820_ENTRY_BYTES = 20;

/**
 * The vCPUs ≠ 0 wait here: `magic` says that `entry` is valid. PROJECT, after the multiprocessor wakeup mailbox of ACPI 6.5
 * §5.2.12.19; {@link BootParams.apReset} is its reset vector. `kernel` is the load address of the kernel that wakes them.
 */
export const apMailbox = layout('ap_mailbox', 24, { magic: u64(0), entry: u64(8), kernel: u64(16) });
export const AP_MAILBOX_MAGIC = 0x31504d4155465043n;

/**
 * GetVariable (UEFI 2.10 §8.2) in the Microsoft x64 convention, called with {@link GuestCpu.call}: RCX = VA of the
 * UTF-16LE name, RDX = VA of the 16-byte GUID, R8 = VA of the attributes or 0, R9 = VA of the u64 data size,
 * [RSP + 0x28] = VA of the data, seen by the callee, where [RSP] is the return address and [RSP + 8] … [RSP + 0x27] is
 * the callee's home space. RAX = EFI_STATUS. RBX, RBP, RDI, RSI, R12 … R15 are preserved; the caller removes its frame.
 */
export const GET_VARIABLE_DATA_OFFSET = 0x28;

/** EFI_STATUS values (UEFI 2.10 appendix D). */
export const EfiStatus = {
	success: 0n,
	invalidParameter: 0x8000000000000002n,
	unsupported: 0x8000000000000003n,
	bufferTooSmall: 0x8000000000000005n,
	deviceError: 0x8000000000000007n,
	notFound: 0x800000000000000en,
} as const;

/** The variable by which firmware says that it tracked its shared pages: name in UTF-16LE with its NUL. */
export const LIVE_MIGRATION_VARIABLE = 'SevLiveMigrationEnabled';
/** MEM_ENCRYPT_GUID, as stored. */
export const MEM_ENCRYPT_GUID = guidToBytes('0cf29b71-9e51-433a-a3b7-81f3ab16b875');

/** A text in UTF-16LE with its terminating NUL: how EFI names variables. Characters of the basic plane only. */
export function efiString(text: string): Uint8Array {
	const out = new Uint8Array(2 * (text.length + 1));
	for (let i = 0; i < text.length; i++) {
		out[2 * i] = text.charCodeAt(i) & 0xff;
		out[2 * i + 1] = text.charCodeAt(i) >>> 8;
	}
	return out;
}

/** What firmware tells the kernel. */
export interface BootParams {
	readonly ramBytes: number;
	readonly seed: bigint;
	readonly stepLimit: bigint;
	readonly cpus: number;
	readonly efi: boolean;
	/** Default false. */
	readonly helper?: boolean;
	/** ASCII, at most 32 characters. */
	readonly workload: string;
	/** 0 without EFI, and where EFI offers no runtime services. */
	readonly getVariable: number;
	/** Default 0. */
	readonly kexecs?: number;
	/** Default 0: kexec is refused while several vCPUs run. */
	readonly apReset?: number;
	/** At most {@link MAX_E820} entries. The firmware area is not RAM in it. */
	readonly e820: readonly { readonly addr: number; readonly size: number; readonly type: number }[];
}

/** The bytes of the boot parameters page up to the end of its E820 list. @throws RangeError if something does not fit */
export function encodeBootParams(p: BootParams): Uint8Array {
	if (p.e820.length > MAX_E820)
		throw new RangeError(`e820: expected at most ${MAX_E820} entries, got ${p.e820.length}`);
	const workload = new Uint8Array(32);
	if (p.workload.length > 32)
		throw new RangeError(`workload: expected at most 32 characters, got ${p.workload.length}`);
	for (let i = 0; i < p.workload.length; i++) workload[i] = p.workload.charCodeAt(i);
	const out = new Uint8Array(E820_OFFSET + E820_ENTRY_BYTES * p.e820.length);
	bootParams.encodeInto(out, {
		magic: BOOT_MAGIC,
		ramBytes: BigInt(p.ramBytes),
		seed: p.seed,
		stepLimit: p.stepLimit,
		cpus: p.cpus,
		flags: (p.efi ? BootFlag.efi : 0) | (p.helper ? BootFlag.helper : 0),
		workload,
		getVariable: BigInt(p.getVariable),
		e820Count: p.e820.length,
		kexecs: p.kexecs ?? 0,
		apReset: BigInt(p.apReset ?? 0),
	});
	for (const [i, e] of p.e820.entries()) {
		const entry = { addr: BigInt(e.addr), size: BigInt(e.size), type: e.type };
		e820Entry.encodeInto(out.subarray(E820_OFFSET + E820_ENTRY_BYTES * i), entry);
	}
	return out;
}
