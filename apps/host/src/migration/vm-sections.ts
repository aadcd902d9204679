import { loadVcpuState, saveVcpuState, VCPU_STATE_BYTES } from '@cvm/kvm';
import type { DeviceSection, SectionInfo, SharedRegion } from '@cvm/qemu-mig';
import type { RunState } from '@cvm/qmp';
import type { HostContext } from '../context.js';
import { decodeGlobalState, decodeShared, encodeGlobalState, encodeShared, SECTION, vmSection } from '../devices.js';

/**
 * Version of the guest code that both hosts must link (firmware steps, kernel, programs): a vCPU's RIP means nothing to a
 * host with another one. Change it with any change to what a block does or where it stands.
 */
const PROGRAM_VERSION = 2;

/**
 * The state of the VM as device sections. `model` adds what only hosts of this project understand; `shared` what the guest shares, in
 * dialect `mh-v1`, whose RAM has no place for it, and before all others its section `end-of-confidential-ram`.
 *
 * UNCERTAIN(QEMU "Confidential guest live migration" 17/26): that its one boolean is true.
 */
export function saveSections(host: HostContext, runState: RunState, model: boolean, shared = false): DeviceSection[] {
	const { machine } = host;
	// There the target's VM, which runs for its handler's sake, is stopped by it; here its vCPUs rest until all has arrived.
	const end = { idstr: SECTION.endOfRam, instanceId: 0, version: 1, body: Uint8Array.of(1) };
	const first = shared ? [end] : [];
	const global = { idstr: SECTION.globalstate, instanceId: 0, version: 1, body: encodeGlobalState(runState) };
	if (!model) return [...first, global];
	const vm = vmSection.encode({
		migrationMsr: BigInt(host.migrationMsr.value),
		program: PROGRAM_VERSION,
		vcpus: machine.vcpus.length,
	});
	const list = { idstr: SECTION.shared, instanceId: 0, version: 1, body: encodeShared(machine.shared.ranges) };
	return [
		...first,
		{ idstr: SECTION.vm, instanceId: 0, version: 1, body: vm },
		...(shared ? [list] : []),
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
	#shared: readonly SharedRegion[] | undefined;

	/** @returns whether the section is one of ours. @throws LayoutError on a malformed body */
	take(section: SectionInfo, body: Uint8Array): boolean {
		if (section.idstr === SECTION.vm) this.#vm = vmSection.decode(body);
		else if (section.idstr === SECTION.vcpu) this.#vcpus.set(section.instanceId, body.slice());
		else if (section.idstr === SECTION.shared) this.#shared = decodeShared(body);
		else if (section.idstr === SECTION.endOfRam) return body.length === 1;
		else if (section.idstr === SECTION.globalstate) this.#runState = decodeGlobalState(body);
		else return false;
		return true;
	}

	/** The source's list of shared ranges, for a guest that moves by its helper. */
	takeShared(list: readonly SharedRegion[]): void {
		this.#shared = list.map((range) => ({ ...range }));
	}

	/** Whether sections have begun to arrive. */
	get any(): boolean {
		return this.#vm !== undefined || this.#vcpus.size > 0;
	}

	/** The run state that the source was in; `running` when the stream does not say. */
	get runState(): string {
		return this.#runState ?? 'running';
	}

	/** @throws Error if something is missing or is for another machine */
	check(host: HostContext): { readonly migrationMsr: bigint } | undefined {
		const { vcpus } = host.machine;
		const vm = this.#vm;
		if (!vm) {
			if (vcpus.length === 0) return undefined;
			throw new Error('the stream holds no vCPU state of this model; the guest can not continue here');
		}
		if (vm.program !== PROGRAM_VERSION) {
			throw new Error(`guest code version received is ${vm.program} and local is ${PROGRAM_VERSION}`);
		}
		if (vm.vcpus !== vcpus.length) throw new Error(`vCPUs received are ${vm.vcpus} and local are ${vcpus.length}`);
		const missing = vcpus.findIndex((_, index) => !this.#vcpus.has(index));
		if (missing >= 0) throw new Error(`the state of vCPU ${missing} did not arrive`);
		for (const [index, state] of this.#vcpus) {
			if (state.length !== VCPU_STATE_BYTES) {
				throw new Error(`state of vCPU ${index}: expected ${VCPU_STATE_BYTES} bytes, got ${state.length}`);
			}
		}
		return vm;
	}

	/** Gives the VM what arrived. @throws Error as {@link check} */
	apply(host: HostContext): void {
		const { machine } = host;
		const vm = this.check(host);
		if (!vm) return;
		if (this.#shared && !machine.shared.replace(this.#shared)) {
			throw new Error(`${this.#shared.length} ranges of shared pages are more than fit`);
		}
		host.migrationMsr.load(vm.migrationMsr);
		for (const [index, vcpu] of machine.vcpus.entries())
			loadVcpuState(vcpu.share(), this.#vcpus.get(index) ?? new Uint8Array());
	}
}
