import { layout, reserved, u8, u32 } from '@cvm/layout';
import { isMirrorVcpu, type MirrorTopology } from './topology.js';

/** FW_CFG_NB_CPUS: key of the number of CPUs at boot in QEMU's fw_cfg. */
export const FW_CFG_NB_CPUS = 0x0005;

/** MADT: processor local APIC (ACPI 6.5 §5.2.12.2). */
export const madtLocalApic = layout('madt_local_apic', 8, {
	type: u8(0),
	length: u8(1),
	processorUid: u8(2),
	apicId: u8(3),
	/** Bit 0: enabled. */
	flags: u32(4),
});

/** MADT: processor local x2APIC (ACPI 6.5 §5.2.12.12), for APIC ids from 255 on. */
export const madtLocalX2apic = layout('madt_local_x2apic', 16, {
	type: u8(0),
	length: u8(1),
	pad: reserved(2, 2),
	apicId: u32(4),
	flags: u32(8),
	processorUid: u32(12),
});

/** SRAT: processor local APIC affinity (ACPI 6.5 §5.2.16.1). The proximity domain's upper 24 bits are 0 here. */
export const sratLocalApic = layout('srat_local_apic_affinity', 16, {
	type: u8(0),
	length: u8(1),
	proximityDomain: u8(2),
	apicId: u8(3),
	/** Bit 0: enabled. */
	flags: u32(4),
	localSapicEid: u8(8),
	proximityDomainHigh: reserved(9, 3),
	clockDomain: u32(12),
});

/** SRAT: processor local x2APIC affinity (ACPI 6.5 §5.2.16.3). */
export const sratLocalX2apic = layout('srat_local_x2apic_affinity', 24, {
	type: u8(0),
	length: u8(1),
	pad: reserved(2, 2),
	proximityDomain: u32(4),
	apicId: u32(8),
	flags: u32(12),
	clockDomain: u32(16),
	pad2: reserved(20, 4),
});

const MADT_LOCAL_APIC = 0;
const MADT_LOCAL_X2APIC = 9;
const SRAT_LOCAL_APIC = 0;
const SRAT_LOCAL_X2APIC = 2;
const ENABLED = 1;
const FIRST_X2APIC_ID = 255;

/** What tells the guest of its CPUs: mirror vCPUs are in none of it. UIDs and APIC ids are CPU indices. */
export interface GuestCpuView {
	/**
	 * Value of {@link FW_CFG_NB_CPUS} as a guest reads it, u16 little-endian: the CPUs at boot less all mirror vCPUs.
	 *
	 * Known defect of the branch, reproduced: mirror vCPUs are counted off whether or not they are among the CPUs at boot, so that
	 * `-smp 2,maxcpus=4,mirrorvcpus=1` starts one CPU too few, and more mirrors than CPUs at boot wrap below zero.
	 */
	readonly bootCpuCount: Uint8Array;
	/** Processor entries of the MADT, one after the other; enabled if the CPU is there at boot. */
	readonly madtEntries: Uint8Array;
	/** Processor entries of the SRAT: all enabled, in proximity domain 0. */
	readonly sratEntries: Uint8Array;
	/** CPUs with a processor object in the DSDT, by name: C000, C001, … */
	readonly processorObjects: readonly string[];
	/** CPUs that the method CTFY passes notifications on to, by the same names. */
	readonly notifyTargets: readonly string[];
}

/** What firmware and tables say of a machine's CPUs. */
export function guestCpuView(topology: MirrorTopology): GuestCpuView {
	const { cpus, maxCpus, mirrorVcpus } = topology;
	const visible = Array.from({ length: maxCpus }, (_, i) => i).filter((i) => !isMirrorVcpu(topology, i));
	const names = visible.map((i) => `C${i.toString(16).toUpperCase().padStart(3, '0')}`);
	const count = new Uint8Array(2);
	new DataView(count.buffer).setUint16(0, cpus - mirrorVcpus, true);
	return {
		bootCpuCount: count,
		madtEntries: concat(visible.map((i) => madtEntry(i, i < cpus))),
		sratEntries: concat(visible.map(sratEntry)),
		processorObjects: names,
		notifyTargets: names,
	};
}

function madtEntry(id: number, isPresent: boolean): Uint8Array {
	const flags = isPresent ? ENABLED : 0;
	return id < FIRST_X2APIC_ID
		? madtLocalApic.encode({ type: MADT_LOCAL_APIC, length: 8, processorUid: id, apicId: id, flags })
		: madtLocalX2apic.encode({ type: MADT_LOCAL_X2APIC, length: 16, apicId: id, flags, processorUid: id });
}

function sratEntry(id: number): Uint8Array {
	return id < FIRST_X2APIC_ID
		? sratLocalApic.encode({ type: SRAT_LOCAL_APIC, length: 16, apicId: id, flags: ENABLED })
		: sratLocalX2apic.encode({ type: SRAT_LOCAL_X2APIC, length: 24, apicId: id, flags: ENABLED });
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
	const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
	let at = 0;
	for (const part of parts) {
		out.set(part, at);
		at += part.length;
	}
	return out;
}
