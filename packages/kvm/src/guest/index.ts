/**
 * The Linux guest's half of live migration, as guest code in blocks: it finds out that it is encrypted, keeps the host
 * informed of what it shares, and tells it when it may be migrated.
 *
 * ```ts
 * const program = link(...firmware, ...linuxKernel({ abi: 'upstream', workloads: { idle: { fragment, start: 'idle' } } }));
 * ```
 *
 * In order, from `kernel_entry` on the boot vCPU: C-bit by CPUID and SEV_STATUS · page tables, one to one, private but for
 * `.bss..decrypted` · all free RAM cleared through the private mapping · KVM found by its signature · page status reported
 * (v12: `.bss..decrypted`; upstream: all RAM of E820 encrypted, then `.bss..decrypted`) · MSR 0x4B564D08 ← 1 at once
 * without EFI, in the late initcall if the firmware's variable SevLiveMigrationEnabled allows it · other vCPUs woken through
 * the firmware's mailbox · the workload.
 *
 * **For firmware.** Fill the page at `MemoryMap.bootParams` (`encodeBootParams`) and jump to `kernel_entry` with the low
 * 4 GiB mapped one to one and private, paging on or off. Park the other vCPUs on `MemoryMap.apMailbox`. Keep
 * `MemoryMap.firmware … firmwareEnd` out of the RAM entries of the E820 list that the kernel gets: the kernel clears what
 * is RAM (not that area), and upstream reports it as encrypted, which the firmware's GHCB page is not.
 *
 * **For workloads.** The labels `set_memory_decrypted`, `set_memory_encrypted` (RDI = VA, RSI = pages; RAX = 0 or negative
 * errno) and `console_putc` (RDI = character) are for `cpu.call`; they keep RBX, RBP, R12 … R15. A page whose C-bit changed
 * reads as noise until it is written: Linux does not convert contents.
 *
 * PROJECT: kernel text is not in guest memory; the log lines of the real kernel are left out; kexec is not modelled.
 *
 * @packageDocumentation
 */
export {
	AP_MAILBOX_MAGIC,
	apMailbox,
	BOOT_MAGIC,
	BootFlag,
	type BootParams,
	bootParams,
	E820_ENTRY_BYTES,
	E820_OFFSET,
	E820Type,
	EfiStatus,
	e820Entry,
	efiString,
	encodeBootParams,
	GET_VARIABLE_DATA_OFFSET,
	LIVE_MIGRATION_VARIABLE,
	MAX_CPUS,
	MAX_E820,
	MEM_ENCRYPT_GUID,
	MemoryMap,
} from './boot-protocol.js';
export type { E820Entry } from './e820.js';
export { type LinuxKernelOptions, linuxKernel, type Workload } from './kernel.js';
