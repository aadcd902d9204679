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
 * OVMF keeps non-volatile variables in flash; this store lives as long as the guest.
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

/** EFI_VARIABLE_NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS. */
const ATTRIBUTES = 7;
const STORE = MemoryMap.variableStore;

/** Makes an empty store. */
export function initialiseVariables(cpu: GuestCpu): void {
	cpu.fill(STORE, MemoryMap.variableStoreBytes, 0);
	cpu.store(STORE, variableStore.encode({ magic: VARIABLE_STORE_MAGIC, used: variableStore.size, count: 0 }));
}

function appendVariable(cpu: GuestCpu, guid: Uint8Array, name: Uint8Array, data: Uint8Array): void {
	const head = new Uint8Array(variableStore.size);
	cpu.load(STORE, head);
	const { used, count } = variableStore.decode(head);
	const content = variableRecord.size + name.length + data.length;
	const length = Math.ceil(content / 8) * 8;
	const record = new Uint8Array(length);
	const sizes = { nameBytes: name.length, dataBytes: data.length };
	variableRecord.encodeInto(record, { length, attributes: ATTRIBUTES, guid, ...sizes });
	record.set(name, variableRecord.size);
	record.set(data, variableRecord.size + name.length);
	cpu.store(STORE + used, record);
	cpu.store(STORE, variableStore.encode({ magic: VARIABLE_STORE_MAGIC, used: used + length, count: count + 1 }));
}

/** Sets SevLiveMigrationEnabled: one byte, 1 if the firmware reported all pages that it shared. */
export const setLiveMigrationVariable = (cpu: GuestCpu, value: 0 | 1): void =>
	appendVariable(cpu, MEM_ENCRYPT_GUID, efiString(LIVE_MIGRATION_VARIABLE), Uint8Array.of(value));

/** Whether the caller's name is that of a record; reads no further than the first difference. */
function sameName(cpu: GuestCpu, caller: number, stored: number, length: number): boolean {
	for (let at = 0; at < length; at += 2) {
		if (cpu.loadU16(caller + at) !== cpu.loadU16(stored + at)) return false;
	}
	return true;
}

const sameBytes = (a: Uint8Array, b: Uint8Array) => a.every((byte, i) => byte === b[i]);

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
