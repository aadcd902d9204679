import type { Infer } from '@cvm/layout';
import { EsVcpuFlags, esVcpuRecord } from '../../abi/sev-vmsa.js';
import { KvmError } from '../../error.js';
import { VmWord } from '../../vm/state.js';
import { openVcpuState, Register, VcpuWord } from '../../vm/vcpu-state.js';
import { contextOf, type Vm } from '../../vm/vm.js';
import { ApicEvent, loadApicEvents, storeApicEvents } from '../../vm/words.js';

/** PROJECT: {@link esVcpuRecord} as an object. */
export type EsVcpuRecord = Infer<typeof esVcpuRecord>;

/** What the record has of the VMM, and not of KVM. */
export interface VmmState {
	/** TSC of the guest minus that of the host. */
	readonly tscOffset?: bigint;
	/** The migration MSR, which the VMM keeps. */
	readonly migMsr?: bigint;
}

const stateOf = (vm: Vm, vcpuId: number) => {
	const { vcpus, words } = contextOf(vm);
	const context = vcpus.get(vcpuId);
	if (context === undefined) throw new KvmError('vcpu-index', 'vcpu', 'one that was created', `${vcpuId}`);
	return { vmWords: words, ...openVcpuState(context.vcpu.share()) };
};

/** What waits at the local APIC, in turn: bit of the VM's word, flag of the record. */
const PENDING = [
	[ApicEvent.init, EsVcpuFlags.INIT_PENDING],
	[ApicEvent.sipi, EsVcpuFlags.SIPI_PENDING],
] as const;

/**
 * PROJECT: what a migration has to carry of a stopped SEV-ES vCPU besides its save area: 48 bytes. Nothing in it is secret.
 * For a move of the encryption context too, taken before it: INIT and SIPI wait at the local APIC, which the move leaves.
 *
 * @throws KvmError `vcpu-index` for a vCPU that was not created
 */
export function saveEsVcpu(vm: Vm, vcpuId: number, { tscOffset = 0n, migMsr = 0n }: VmmState = {}): Uint8Array {
	const { registers, words, vmWords } = stateOf(vm, vcpuId);
	const events = loadApicEvents(vmWords, vcpuId);
	let flags = registers[Register.sipiSeen] === 0n ? 0n : EsVcpuFlags.SIPI_SEEN;
	for (const [event, flag] of PENDING) if ((events & event) !== 0) flags |= flag;
	const half = (word: number) => BigInt(Atomics.load(vmWords, VmWord.apJumpTable + word) >>> 0);
	return esVcpuRecord.encode({
		ghcbMsr: registers[Register.ghcbMsr] ?? 0n,
		apJumpTableGpa: half(0) | (half(1) << 32n),
		resetHoldType: Number(registers[Register.apResetHold] ?? 0n),
		mpState: Atomics.load(words, VcpuWord.mpState),
		tscOffset: BigInt.asUintN(64, tscOffset),
		migMsr,
		flags,
	});
}

/**
 * PROJECT: puts a record of {@link saveEsVcpu} into a stopped vCPU and hands it back decoded, for the VMM's part of it.
 *
 * @throws LayoutError unless it has 48 bytes, KvmError `vcpu-index`
 */
export function loadEsVcpu(vm: Vm, vcpuId: number, data: Uint8Array): EsVcpuRecord {
	const record = esVcpuRecord.decode(data);
	const { registers, words, vmWords } = stateOf(vm, vcpuId);
	registers[Register.ghcbMsr] = record.ghcbMsr;
	registers[Register.apResetHold] = BigInt(record.resetHoldType);
	registers[Register.sipiSeen] = record.flags & EsVcpuFlags.SIPI_SEEN;
	Atomics.store(words, VcpuWord.mpState, record.mpState);
	const events = PENDING.reduce((all, [event, flag]) => ((record.flags & flag) === 0n ? all : all | event), 0);
	storeApicEvents(vmWords, vcpuId, events);
	Atomics.store(vmWords, VmWord.apJumpTable, Number(BigInt.asIntN(32, record.apJumpTableGpa)));
	Atomics.store(vmWords, VmWord.apJumpTable + 1, Number(BigInt.asIntN(32, record.apJumpTableGpa >> 32n)));
	return record;
}
