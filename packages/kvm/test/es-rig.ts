/** SEV-ES guests through the ioctls. */
import { nodeProvider } from '@cvm/crypto/node';
import { gpa, spa } from '@cvm/layout';
import { COMMANDS } from '@cvm/sev-hw/abi';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { type HostMapping, resetVcpu, type Vcpu, type Vm } from '../src/index.js';
import { contextOf } from '../src/vm/vm.js';
import { bootHost, type Host, PAGE } from './host.js';

/** Policies of SEV-ES guests. */
export const ES_POLICY = 4;
/** QEMU's EPYC-Milan: also what `kvm.cpuid()` says. */
export const SIGNATURE = 0x00a00f11;
/** SEV-ES reset block of OVMF's AmdSev build. */
export const AP_RESET = 0x0080b004;

export type EsHostOptions = Parameters<typeof bootHost>[0];

/** A host whose machine gets save areas; `measured` are their plaintexts as the firmware got them. */
export function bootEsHost(o: EsHostOptions = {}): Host & { readonly measured: Uint8Array[] } {
	const host = bootHost(o);
	const measured: Uint8Array[] = [];
	const { psp, dram } = host.machine;
	const { submit } = psp;
	psp.submit = (command, at) => {
		if (command === COMMANDS.LAUNCH_UPDATE_VMSA.id) {
			const { buffer } = COMMANDS.LAUNCH_UPDATE_VMSA;
			const { paddr, length } = buffer.decode(dram.slice(at, at + buffer.size));
			const from = Number(BigInt.asUintN(host.machine.cpuid.cbitPosition, paddr));
			measured.push(new Uint8Array(dram.slice(from, from + length)));
		}
		return submit(command, at);
	};
	return Object.assign(host, { measured });
}

export interface EsVm {
	readonly vm: Vm;
	readonly ram: HostMapping;
	readonly vcpus: readonly Vcpu[];
}

/** A SEV-ES VM in LUPDATE (or, without a policy, before its start) with vCPUs in QEMU's reset state. `typed`: by INIT2. */
export function esVm(host: Host, o: { vcpus?: number; typed?: boolean; policy?: number | undefined } = {}): EsVm {
	const { vcpus: count = 2, typed = false } = o;
	const vm = host.kvm.createVm(typed ? { type: 3 } : {});
	must(typed ? vm.sev.init2() : vm.sev.esInit());
	const ram = host.kvm.memory.mmap(4 * PAGE);
	const slot = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: 4 * PAGE, userspaceAddr: ram.hva };
	mustZero(vm.setUserMemoryRegion(slot));
	mustZero(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: 4 * PAGE }));
	if (!('policy' in o) || o.policy !== undefined) {
		must(vm.sev.launchStart({ policy: o.policy ?? ES_POLICY }));
		must(vm.sev.launchUpdateData({ uaddr: ram.hva, len: 4 * PAGE }));
	}
	const vcpus = Array.from({ length: count }, (_, i) => vm.createVcpu(i, host.kvm.cpuid({ es: true })));
	for (const vcpu of vcpus) mustZero(resetVcpu(vcpu, { signature: SIGNATURE, apResetVector: AP_RESET }));
	return { vm, ram, vcpus };
}

/** The same, RUNNING. */
export function runningEsVm(host: Host, o: { vcpus?: number; typed?: boolean; policy?: number } = {}): EsVm {
	const made = esVm(host, o);
	must(made.vm.sev.launchUpdateVmsa());
	must(made.vm.sev.launchMeasure());
	must(made.vm.sev.launchFinish());
	return made;
}

export const must = ({ ret, error }: { readonly ret: number; readonly error: number }): void => {
	if (ret !== 0 || error !== 0) throw new Error(`SEV ioctl: expected 0, got ${ret}/${error}`);
};
const mustZero = (ret: number): void => {
	if (ret !== 0) throw new Error(`ioctl: expected 0, got ${ret}`);
};

/** A save area as its guest's key shows it. */
export function plainSaveArea(host: Host, vm: Vm, vcpu: number): Uint8Array {
	const { saveArea } = contextOf(vm).vcpus.get(vcpu) ?? {};
	if (saveArea === undefined) throw new Error(`vCPU ${vcpu}: expected a save area`);
	const page = new Uint8Array(PAGE);
	openMemoryController(host.machine.silicon, nodeProvider).read(contextOf(vm).sev.asid, spa(saveArea.spa), page);
	return page;
}

/** The bytes of a save area that the firmware has for itself. */
export const withoutSlot = (page: Uint8Array): Uint8Array => page.slice().fill(0, 0x380, 0x390);
