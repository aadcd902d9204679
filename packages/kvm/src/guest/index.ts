/**
 * The Linux guest's half of live migration, as guest code in blocks: it finds out that it is encrypted, keeps the host
 * informed of what it shares, and tells it when it may be migrated.
 *
 * ```ts
 * const program = link(...firmware, ...linuxKernel({ abi: 'upstream', workloads: { idle: { fragment, start: 'idle' } } }));
 * ```
 *
 * In order, from `kernel_entry` on the boot vCPU: IDT with a #VC handler · C-bit by CPUID and SEV_STATUS · page tables, one to
 * one, private but for `.bss..decrypted` · all free RAM cleared through the private mapping · SEV-ES: version of the GHCB
 * protocol, a GHCB · KVM found by its signature · page status reported (v12: `.bss..decrypted`; upstream: all RAM of E820
 * encrypted, then `.bss..decrypted`) · MSR 0x4B564D08 ← 1 at once without EFI · SEV-ES: a GHCB page for each vCPU, shared and
 * reported · late initcall: the MSR ← 1 with EFI if the firmware's variable SevLiveMigrationEnabled allows it · other vCPUs
 * woken, through the firmware's mailbox or, with SEV-ES, by INIT and SIPI and the AP jump table · the workload.
 *
 * **For firmware.** Fill the page at `MemoryMap.bootParams` (`encodeBootParams`) and jump to `kernel_entry` with RSI = its
 * address and the low 4 GiB mapped one to one and private, paging on or off. Park the other vCPUs on `MemoryMap.apMailbox`;
 * `apReset` is where they may come back. With SEV-ES park them in AP_RESET_HOLD and give the hypervisor
 * `MemoryMap.apJumpTable`. Keep `MemoryMap.firmware … firmwareEnd` out of the RAM entries of the E820 list that the kernel
 * gets: the kernel clears what is RAM (not that area), and reports it as encrypted, which the firmware's GHCB page is not.
 * `bareFirmware` does the least of this; `demoGuest` is a whole guest over it. `vcBlocks`, `loadIdt` and the GHCB functions are
 * what firmware for SEV-ES needs.
 *
 * **For workloads.** Labels for `cpu.call`, which keep RBX, RBP, R12 … R15: `set_memory_decrypted`, `set_memory_encrypted`
 * (RDI = VA, RSI = pages; RAX = 0 or negative errno), after which a page reads as noise until it is written;
 * `early_set_memory_decrypted`, `early_set_memory_encrypted` (RSI = bytes), for one vCPU alone, which keep what pages hold;
 * `console_putc` (RDI = character); `cpu_idle`, which waits for a tick; `kexec` (RDI = load address or 0), which starts the
 * next kernel and brings other vCPUs along if they call `cpu_idle`; with SEV-ES `vc.mmio_read` and `vc.mmio_write`.
 *
 * **For a migration helper** in the guest (`BootFlag.helper`): the kernel keeps `MemoryMap.helperSharedMap`, its own record of what it
 * shares, and workloads ask `mustRest` before each step.
 *
 * PROJECT: kernel text is not in guest memory, so that a kernel that kexec starts is the same text with other memory. RDTSC,
 * XSETBV and string I/O are not modelled, nor is the instruction decoder by which #VC handlers emulate MMIO.
 *
 * @packageDocumentation
 */
export { type BareFirmwareOptions, bareFirmware } from './bare-firmware.js';
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
	KernelOffset,
	LIVE_MIGRATION_VARIABLE,
	MAX_CPUS,
	MAX_E820,
	MEM_ENCRYPT_GUID,
	MemoryMap,
} from './boot-protocol.js';
export { type DemoGuestOptions, demoGuest } from './demo-guest.js';
export type { E820Entry } from './e820.js';
export { AP_TRAMPOLINE } from './es-boot.js';
export {
	clearGhcb,
	type GhcbField,
	ghcbExit,
	ghcbResult,
	ghcbVerdict,
	initGhcb,
	setGhcb,
	writeGhcbMsr,
} from './ghcb.js';
export { type LinuxKernelOptions, linuxKernel, type Workload } from './kernel.js';
export { mustRest, setRecordedSharing } from './shared-record.js';
export { loadIdt, setVcGate, type VcOptions, vcBlocks } from './vc-handler.js';
