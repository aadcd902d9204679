import { bytes, guidFromBytes, guidToBytes, layout, toHex, u16, u32 } from '@cvm/layout';
import { FOOTER_FROM_END, TableGuid } from './table.js';

/** Where SEV-ES application processors start. */
export interface ResetBlock {
	readonly address: number;
	/** CS base of a processor reset there. */
	readonly csBase: number;
	readonly ip: number;
}

/**
 * The registers that QEMU gives to every processor but the first of an SEV-ES guest; the CS selector is 0xF000, its limit 0xFFFF
 * (qemu 7.2 target/i386/sev.c).
 */
export const resetBlockOf = (address: number): ResetBlock => ({
	address,
	csBase: (address & 0xffff0000) >>> 0,
	ip: address & 0xffff,
});

const oldReset = layout('OldResetBlock', 22, { address: u32(0), length: u16(4), guid: bytes(6, 16) });

/** Images older than the table carry the reset block alone, its GUID in the footer's place (qemu 7.2 target/i386/sev.c). */
export function oldResetBlock(image: Uint8Array): ResetBlock | undefined {
	if (image.length < 4096) return undefined;
	const at = image.length - FOOTER_FROM_END - 6;
	const block = oldReset.decodePrefix(image.subarray(at));
	if (guidFromBytes(block.guid) !== TableGuid.resetBlock || block.length !== oldReset.size) return undefined;
	return resetBlockOf(block.address);
}

/**
 * Writes the reset block as images before the table had it.
 *
 * @throws RangeError if the image is below 4 KiB, in which nobody looks for it
 */
export function placeOldResetBlock(image: Uint8Array, address: number): void {
	if (image.length < 4096) throw new RangeError(`firmware image: expected at least 4096 bytes, got ${image.length}`);
	const block = oldReset.encode({ address, length: oldReset.size, guid: guidToBytes(TableGuid.resetBlock) });
	image.set(block, image.length - FOOTER_FROM_END - 6);
}

/** Kinds of {@link ResetVector}. */
export type ResetVectorKind = 'x64' | 'ia32' | 'model' | 'erased' | 'unknown';

/** The last 16 bytes, where a processor starts. */
export interface ResetVector {
	/** File offset; the address is 0xFFFFFFF0. */
	readonly offset: number;
	readonly bytes: Uint8Array;
	readonly kind: ResetVectorKind;
	readonly meaning: string;
}

/** Kinds of reset vectors by how they begin (edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and its predecessors). */
const VECTORS: readonly (readonly [string, ResetVectorKind, string])[] = [
	['0f20c0a801', 'x64', 'MOV EAX,CR0; TEST AL,1: a 64-bit build, which TDX may enter in protected mode'],
	['9090e9', 'ia32', 'NOP NOP JMP: as builds with a 32-bit PEI have it, and 64-bit ones before TDX'],
	['faf4ebfd', 'model', 'CLI; HLT; JMP: the model firmware of this project, whose instructions nobody executes'],
	['ffffffffffffffffffffffffffffffff', 'erased', 'erased flash: nothing starts here'],
];

/** Reads the reset vector. `undefined` if the image has not even that. */
export function readResetVector(image: Uint8Array): ResetVector | undefined {
	if (image.length < 16) return undefined;
	const offset = image.length - 16;
	const vector = image.slice(offset);
	const digits = toHex(vector);
	const [, kind, meaning] = VECTORS.find(([start]) => digits.startsWith(start)) ?? ['', 'unknown', 'not one of OVMF'];
	return { offset, bytes: vector, kind, meaning };
}
