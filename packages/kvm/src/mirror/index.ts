/**
 * The VMM's half of a mirror VM (QEMU's mirror_vm branch, August 2021): a second VM that shares a guest's encryption context and
 * memory, on whose vCPUs a migration handler runs inside of the guest's private memory while the guest's own vCPUs go on.
 *
 * ```ts
 * const topology = parseSmp('4,mirrorvcpus=1');                     // vCPU 3 is a mirror, guestCpuView() hides it
 * const map = createPcRamMap({ ramBytes, hva: ram.hva });
 * const mirror = createMirrorVm({ kvm, main, topology, strategy: createLowWindowStrategy(map) });
 * main.sev.init();
 * main.sev.launchStart({ policy });
 * mirror.shareContext();
 * mirror.setUserMemoryRegion(slot);                                 // on both
 * mirror.mapWindows();                                              // all of RAM once more, at its RAM address
 * const handler = mirror.addVcpu(3, cpuid);
 * mirror.strategy.addressOf(ramAddr);                               // what to tell the handler
 * ```
 *
 * **Addresses.** VMM and handler speak of RAM addresses (QEMU's ram_addr_t), not of guest-physical ones, so that memory that the
 * guest does not see at present can move: {@link RamMap}. How the mirror sees RAM is a {@link MirrorStrategy}: `identity`,
 * `lowWindow`, `registration`; `pspCopy` is refused with its reason.
 *
 * **Hazards** that are the design's own, and are here as they are there: each VM logs its own writes only, so what a handler writes
 * is in no dirty log that is read; a slot that is changed on one VM alone makes them diverge; the C-bit is each VM's own choice, so one
 * may read as garbage what the other wrote; only the main VM pins; a mirror's exits reach the machine's devices; the handler's
 * memory stays writable for the guest.
 *
 * @packageDocumentation
 */
export {
	FW_CFG_NB_CPUS,
	type GuestCpuView,
	guestCpuView,
	madtLocalApic,
	madtLocalX2apic,
	sratLocalApic,
	sratLocalX2apic,
} from './acpi.js';
export { type CpuHotplugBlock, CpuHotplugCommand, CpuHotplugOffset, createCpuHotplugBlock } from './cpu-hotplug.js';
export { MirrorError } from './error.js';
export { type LoadLevel, loadMirrorRegisters, type MirrorRegisters } from './load-registers.js';
export { createMirrorVm, FIRST_WINDOW_SLOT, type MirrorVm, type MirrorVmOptions } from './mirror-vm.js';
export { type IdentityTablesOptions, identityPageTables, identityTableBytes, type TableEntry } from './page-tables.js';
export {
	createPcRamMap,
	createRamMap,
	FOUR_GIB,
	type PcRamOptions,
	type RamBlock,
	type RamMap,
	type RamMapping,
	type RamPiece,
} from './ram-map.js';
export {
	createRegistrationStrategy,
	MAX_MIRROR_RECORDS,
	type MirrorRecord,
	mirrorRecord,
	type RecordFault,
	type RegistrationAnswer,
	type RegistrationStrategy,
} from './registration.js';
export { type AfterExit, handleMirrorExit, type MachineDevices } from './run-loop.js';
export {
	createIdentityStrategy,
	createLowWindowStrategy,
	createPspCopyStrategy,
	type MirrorStrategy,
	type MirrorStrategyName,
	type MirrorWindow,
	type PhysicalLimits,
	SHARED_ALIAS_OFFSET,
} from './strategy.js';
export { checkTopology, isMirrorVcpu, type MirrorTopology, parseSmp } from './topology.js';
export { createVcpuGroup, type GroupVcpu, Synchronisation, type VcpuGroup } from './vcpu-group.js';
