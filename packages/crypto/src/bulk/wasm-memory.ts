import { fillCounterBlocks } from '../counter-blocks.js';
import type { BulkMemory } from './memory.js';
import { block, branch, branchIf, emitModule, get, i32, loop, set, v128, type WasmFunction } from './wasm-emitter.js';

const WASM_PAGE = 65536;
const BLOCK = 16;

const advance = (local: number, step: number): number[] => [
	...[...get(local), ...i32.const(step), ...i32.add],
	...set(local),
];

/** `BulkMemory.mask`: four blocks per turn, then one per turn. */
function maskFunction(): WasmFunction {
	const [to, from, pad, key, left, keyBlock] = [0, 1, 2, 3, 4, 5] as const;
	const maskBlock = (offset: number): number[] => [
		...get(to),
		...[...get(from), ...v128.load(offset)],
		...[...get(pad), ...v128.load(offset), ...v128.xor],
		...[...get(keyBlock), ...v128.xor],
		...v128.store(offset),
	];
	/** While `step` bytes are left: masks them. */
	const whileLeft = (step: number): number[] =>
		block(
			loop([
				...[...get(left), ...i32.const(step), ...i32.lessUnsigned, ...branchIf(1)],
				...Array.from({ length: step / BLOCK }, (_, i) => maskBlock(i * BLOCK)).flat(),
				...[to, from, pad].flatMap((local) => advance(local, step)),
				...advance(left, -step),
				...branch(0),
			]),
		);
	const body = [...get(key), ...v128.load(0), ...set(keyBlock), ...whileLeft(4 * BLOCK), ...whileLeft(BLOCK)];
	return { name: 'mask', parameters: 5, locals: ['v128'], body };
}

/**
 * `BulkMemory.countUp` as long as only the last 32 bits of the block change. A SIMD register is little-endian, so the
 * block is turned round to be counted up, and back to be written.
 */
function countUpFunction(): WasmFunction {
	const [at, count, number] = [0, 1, 2] as const;
	const reversed = v128.shuffle(Array.from({ length: BLOCK }, (_, i) => BLOCK - 1 - i));
	const reverse = [...get(number), ...get(number), ...reversed];
	const body = [
		...[...get(at), ...v128.load(0), ...set(number), ...reverse, ...set(number)],
		...block(
			loop([
				...[...get(count), ...i32.eqz, ...branchIf(1)],
				...[...get(at), ...reverse, ...v128.store(0)],
				...[...get(number), ...v128.const([1]), ...v128.add32, ...set(number)],
				...[...advance(at, BLOCK), ...advance(count, -1)],
				...branch(0),
			]),
		),
	];
	return { name: 'countUp', parameters: 2, locals: ['v128'], body };
}

/** As much of WebAssembly's JavaScript interface as is used; the library that declares it is that of browsers. */
interface WebAssemblyInterface {
	readonly Module: new (bytes: Uint8Array) => object;
	readonly Instance: new (module: object) => { readonly exports: object };
}

interface Exports extends Pick<BulkMemory, 'mask' | 'countUp'> {
	readonly memory: { readonly buffer: ArrayBuffer };
}

/** The operations with SIMD, or `undefined` where there is no WebAssembly, or none with SIMD, or no memory for it. */
export function openWasmMemory(size: number): BulkMemory | undefined {
	const { WebAssembly: wasm } = globalThis as { readonly WebAssembly?: WebAssemblyInterface };
	if (wasm === undefined) return undefined;
	try {
		const code = emitModule(Math.ceil(size / WASM_PAGE), [maskFunction(), countUpFunction()]);
		const { memory, mask, countUp } = new wasm.Instance(new wasm.Module(code)).exports as Exports;
		const bytes = new Uint8Array(memory.buffer, 0, size);
		const view = new DataView(memory.buffer);
		return {
			bytes,
			mask,
			countUp: (at, count) => {
				if (view.getUint32(at + 12) + count <= 2 ** 32) countUp(at, count);
				else fillCounterBlocks(view, at, bytes, at, 0, count);
			},
		};
	} catch {
		// A policy may forbid compiling, and address space may be short: everything works without.
		return undefined;
	}
}
