import {
	EfiStatus,
	efiString,
	GET_VARIABLE_DATA_OFFSET,
	LIVE_MIGRATION_VARIABLE,
	MEM_ENCRYPT_GUID,
	MemoryMap,
} from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu } from '@cvm/kvm/vcpu';
import { bytes, layout, u32, u64 } from '@cvm/layout';
import { CODE_BASE } from './work-area.js';

/**
 * PROJECT: the variable store, in the guest's private memory so that the host can neither read nor set a variable. A header,
 * then records back to back, each a multiple of 8 bytes: {@link variableRecord}, the name in UTF-16LE with its NUL, the data.
 * OVMF keeps non-volatile variables in flash; this store lives as long as the guest, and through a reset if memory does and the
 * firmware was built for it (`variableStore: 'kept'`).
 */
export const variableStore = layout('variable_store', 16, {
	/** {@link VARIABLE_STORE_MAGIC}. */
	magic: u64(0),
	/** Bytes in use, this header included. */
	used: u32(8),
	count: u32(12),
});
/** 'CVMVARS1' as a little-endian u64. */
export const VARIABLE_STORE_MAGIC = 0x31535241564d5643n;
/** A record before its name and data. */
export const variableRecord = layout('variable_record', 32, {
	/** Bytes of the whole record. */
	length: u32(0),
	attributes: u32(4),
	guid: bytes(8, 16),
	nameBytes: u32(24),
	dataBytes: u32(28),
});

/** EFI_VARIABLE_NON_VOLATILE (UEFI 2.10 §8.2). */
const NON_VOLATILE = 1;
/** BOOTSERVICE_ACCESS | RUNTIME_ACCESS. */
const ACCESS = 6;
const STORE = MemoryMap.variableStore;

interface Variable {
	readonly attributes: number;
	readonly guid: Uint8Array;
	/** UTF-16LE with its NUL. */
	readonly name: Uint8Array;
	readonly data: Uint8Array;
}

/** The variables of a store; none if it is not one, or is damaged. */
function readVariables(cpu: GuestCpu): Variable[] {
	const store = new Uint8Array(MemoryMap.variableStoreBytes);
	cpu.load(STORE, store);
	const { magic, used } = variableStore.decodePrefix(store);
	const out: Variable[] = [];
	if (magic !== VARIABLE_STORE_MAGIC || used > store.length) return out;
	for (let at = variableStore.size; at + variableRecord.size <= used; ) {
		const { length, attributes, guid, nameBytes, dataBytes } = variableRecord.decodePrefix(store.subarray(at));
		const content = at + variableRecord.size;
		if (length < variableRecord.size + nameBytes + dataBytes || at + length > used) return [];
		const name = store.subarray(content, content + nameBytes);
		out.push({ attributes, guid, name, data: store.subarray(content + nameBytes, content + nameBytes + dataBytes) });
		at += length;
	}
	return out;
}

function writeVariables(cpu: GuestCpu, variables: readonly Variable[]): void {
	const store = new Uint8Array(MemoryMap.variableStoreBytes);
	let used = variableStore.size;
	for (const { attributes, guid, name, data } of variables) {
		const length = Math.ceil((variableRecord.size + name.length + data.length) / 8) * 8;
		const record = { length, attributes, guid, nameBytes: name.length, dataBytes: data.length };
		variableRecord.encodeInto(store.subarray(used, used + variableRecord.size), record);
		store.set(name, used + variableRecord.size);
		store.set(data, used + variableRecord.size + name.length);
		used += length;
	}
	const head = { magic: VARIABLE_STORE_MAGIC, used, count: variables.length };
	variableStore.encodeInto(store.subarray(0, variableStore.size), head);
	cpu.store(STORE, store);
}

/** Makes the store of this boot: an empty one, or with the non-volatile variables of the last. */
export const initialiseVariables = (cpu: GuestCpu, keep: boolean): void =>
	writeVariables(cpu, keep ? readVariables(cpu).filter(({ attributes }) => (attributes & NON_VOLATILE) !== 0) : []);

/** Sets SevLiveMigrationEnabled: one byte, 1 if the firmware reported all pages that it shared. */
export function setLiveMigrationVariable(cpu: GuestCpu, value: 0 | 1, isVolatile: boolean): void {
	const name = efiString(LIVE_MIGRATION_VARIABLE);
	const others = readVariables(cpu).filter((v) => !sameBytes(v.guid, MEM_ENCRYPT_GUID) || !sameBytes(v.name, name));
	const attributes = isVolatile ? ACCESS : ACCESS | NON_VOLATILE;
	writeVariables(cpu, [...others, { attributes, guid: MEM_ENCRYPT_GUID, name, data: Uint8Array.of(value) }]);
}

/** Whether the caller's name is that of a record; reads no further than the first difference. */
function sameName(cpu: GuestCpu, caller: number, stored: number, length: number): boolean {
	for (let at = 0; at < length; at += 2) {
		if (cpu.loadU16(caller + at) !== cpu.loadU16(stored + at)) return false;
	}
	return true;
}

const sameBytes = (a: Uint8Array, b: Uint8Array) => a.length === b.length && a.every((byte, i) => byte === b[i]);

/** GetVariable without its return: RCX name, RDX GUID, R8 attributes or 0, R9 size, fifth argument data. */
function getVariable(cpu: GuestCpu): bigint {
	const name = cpu.num('rcx');
	const sizeAt = cpu.num('r9');
	if (name === 0 || cpu.num('rdx') === 0 || sizeAt === 0) return EfiStatus.invalidParameter;
	const guid = new Uint8Array(16);
	cpu.load(cpu.num('rdx'), guid);
	const head = new Uint8Array(variableStore.size);
	cpu.load(STORE, head);
	const { magic, used } = variableStore.decode(head);
	if (magic !== VARIABLE_STORE_MAGIC || used > MemoryMap.variableStoreBytes) return EfiStatus.deviceError;

	const record = new Uint8Array(variableRecord.size);
	for (let at = variableStore.size; at + variableRecord.size <= used; ) {
		cpu.load(STORE + at, record);
		const found = variableRecord.decode(record);
		const nameAt = STORE + at + variableRecord.size;
		if (found.length < variableRecord.size + found.nameBytes + found.dataBytes || at + found.length > used) {
			return EfiStatus.deviceError;
		}
		at += found.length;
		if (!sameBytes(found.guid, guid) || !sameName(cpu, name, nameAt, found.nameBytes)) continue;

		const room = cpu.loadU64(sizeAt);
		cpu.storeU64(sizeAt, BigInt(found.dataBytes));
		if (room < BigInt(found.dataBytes)) return EfiStatus.bufferTooSmall;
		const out = cpu.loadNum(cpu.num('rsp') + GET_VARIABLE_DATA_OFFSET);
		if (out === 0) return EfiStatus.invalidParameter;
		const data = new Uint8Array(found.dataBytes);
		cpu.load(nameAt + found.nameBytes, data);
		cpu.store(out, data);
		if (cpu.num('r8') !== 0) cpu.storeU32(cpu.num('r8'), found.attributes);
		return EfiStatus.success;
	}
	return EfiStatus.notFound;
}

/** The label of the GetVariable runtime service. */
export const GET_VARIABLE = 'fw.runtime.get_variable';

const blocks = {
	[GET_VARIABLE]: (cpu) => {
		cpu.setReg('rax', getVariable(cpu));
		return cpu.ret();
	},
} satisfies Record<string, Block>;

/** The runtime services that stay after the firmware handed over. */
export const runtimeFragment: CodeFragment = { name: 'ovmf-runtime', base: CODE_BASE + 0x4000, blocks };
