import { PAGE_SIZE } from '@cvm/layout';
import { HelperGeometry } from '../../src/geometry.js';
import type { HelperMemory } from '../../src/session/ports.js';

/** A page that says which it is. */
export const pageOf = (value: number): Uint8Array => {
	const page = new Uint8Array(PAGE_SIZE);
	new DataView(page.buffer).setUint32(0, value, true);
	return page;
};

/** The guest's own record of what it shares. */
export const isShared = (memory: HelperMemory, gpa: number): boolean => {
	const byte = new Uint8Array(1);
	const gfn = gpa / PAGE_SIZE;
	memory.read(HelperGeometry.sharedMap + Math.floor(gfn / 8), byte);
	return (((byte[0] ?? 0) >> (gfn % 8)) & 1) === 1;
};

export const flipShared = (memory: HelperMemory, gpa: number): void => {
	const byte = new Uint8Array(1);
	const gfn = gpa / PAGE_SIZE;
	const at = HelperGeometry.sharedMap + Math.floor(gfn / 8);
	memory.read(at, byte);
	memory.write(at, Uint8Array.of((byte[0] ?? 0) ^ (1 << (gfn % 8))));
};
