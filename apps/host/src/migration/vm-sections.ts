import { loadVcpuState, saveVcpuState } from '@cvm/kvm';
import type { DeviceSection, SectionInfo } from '@cvm/qemu-mig';
import type { RunState } from '@cvm/qmp';
import type { HostContext } from '../context.js';
import { decodeGlobalState, encodeGlobalState, SECTION, vmSection } from '../devices.js';

/**
 * Version of the guest code that both hosts must link (firmware steps, kernel, programs): a vCPU's RIP means nothing to a
 * host with another one. Change it with any change to what a block does or where it stands.
 */
const PROGRAM_VERSION = 1;

/** The state of the VM as device sections. `model` adds what only hosts of this project understand. */
export function saveSections(host: HostContext, runState: RunState, model: boolean): DeviceSection[] {
	const { machine } = host;
	const global = { idstr: SECTION.globalstate, instanceId: 0, version: 1, body: encodeGlobalState(runState) };
	if (!model) return [global];
	const vm = vmSection.encode({
		migrationMsr: BigInt(host.migrationMsr.value),
		program: PROGRAM_VERSION,
		vcpus: machine.vcpus.length,
	});
	return [
		{ idstr: SECTION.vm, instanceId: 0, version: 1, body: vm },
		...machine.vcpus.map((vcpu, instanceId) => ({
			idstr: SECTION.vcpu,
			instanceId,
			version: 1,
			body: saveVcpuState(vcpu.share()),
		})),
		global,
	];
}

/** Sections as they arrive; nothing touches the VM before all are there. */
export class ArrivedSections {
	#vm: ReturnType<typeof vmSection.decode> | undefined;
	readonly #vcpus = new Map<number, Uint8Array>();
	#runState: string | undefined;

	/** @returns whether the section is one of ours. @throws LayoutError on a malformed body */
	take(section: SectionInfo, body: Uint8Array): boolean {
		if (section.idstr === SECTION.vm) this.#vm = vmSection.decode(body);
		else if (section.idstr === SECTION.vcpu) this.#vcpus.set(section.instanceId, body.slice());
		else if (section.idstr === SECTION.globalstate) this.#runState = decodeGlobalState(body);
		else return false;
		return true;
	}

	/** The run state that the source was in; `running` when the stream does not say. */
	get runState(): string {
		return this.#runState ?? 'running';
	}

	/** Gives the VM what arrived. @throws Error if something is missing or is for another machine */
	apply(host: HostContext): void {
		const { vcpus } = host.machine;
		const vm = this.#vm;
		if (!vm) {
			if (vcpus.length === 0) return;
			throw new Error('the stream holds no vCPU state of this model; the guest can not continue here');
		}
		if (vm.program !== PROGRAM_VERSION) {
			throw new Error(`guest code version received is ${vm.program} and local is ${PROGRAM_VERSION}`);
		}
		if (vm.vcpus !== vcpus.length) throw new Error(`vCPUs received are ${vm.vcpus} and local are ${vcpus.length}`);
		const missing = vcpus.findIndex((_, index) => !this.#vcpus.has(index));
		if (missing >= 0) throw new Error(`the state of vCPU ${missing} did not arrive`);
		host.migrationMsr.load(vm.migrationMsr);
		for (const [index, vcpu] of vcpus.entries())
			loadVcpuState(vcpu.share(), this.#vcpus.get(index) ?? new Uint8Array());
	}
}
