/*
 * As much of the WebAssembly binary format (Core Specification 2.0 §5) as two short loops over SIMD registers need: a
 * module with one memory and some functions without results, all of them exported. Instructions are arrays of bytes; to
 * put some one after the other, spread them.
 */

/** Unsigned LEB128 (§5.2.2). */
function u32(value: number): number[] {
	const out: number[] = [];
	let rest = value >>> 0;
	do {
		out.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
		rest >>>= 7;
	} while (rest !== 0);
	return out;
}

/** Signed LEB128 of a number of 32 bits (§5.2.2). */
function s32(value: number): number[] {
	const out: number[] = [];
	let rest = value;
	while (rest < -64 || rest > 63) {
		out.push((rest & 0x7f) | 0x80);
		rest >>= 7;
	}
	return [...out, rest & 0x7f];
}

const vector = (items: readonly (readonly number[])[]): number[] => [...u32(items.length), ...items.flat()];
const section = (id: number, content: readonly number[]): number[] => [id, ...u32(content.length), ...content];
const name = (text: string): number[] => vector([...text].map((c) => [c.charCodeAt(0)]));

const Type = { i32: 0x7f, v128: 0x7b } as const;
const BLOCK_WITHOUT_RESULT = 0x40;

/** A function: parameters are i32, results there are none. */
export interface WasmFunction {
	readonly name: string;
	/** The first locals of the function. */
	readonly parameters: number;
	/** Types of the locals that follow. */
	readonly locals: readonly (keyof typeof Type)[];
	readonly body: readonly number[];
}

/** A module that exports its memory of `pages` × 64 KiB as `memory`, and the functions. */
export function emitModule(pages: number, functions: readonly WasmFunction[]): Uint8Array {
	const types = functions.map((f) => [0x60, ...vector(Array(f.parameters).fill([Type.i32])), ...vector([])]);
	const exports = functions.map((f, i) => [...name(f.name), 0x00, ...u32(i)]);
	const code = functions.map((f) => {
		const content = [...vector(f.locals.map((type) => [1, Type[type]])), ...f.body, 0x0b];
		return [...u32(content.length), ...content];
	});
	return Uint8Array.of(
		...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
		...section(1, vector(types)),
		...section(3, vector(functions.map((_, i) => u32(i)))),
		...section(5, vector([[0x01, ...u32(pages), ...u32(pages)]])),
		...section(7, vector([[...name('memory'), 0x02, 0x00], ...exports])),
		...section(10, vector(code)),
	);
}

const simd = (opcode: number): number[] => [0xfd, ...u32(opcode)];
/** log2 of the alignment, then the offset. An alignment of 1 promises nothing. */
const memarg = (offset: number): number[] => [0, ...u32(offset)];

export const get = (local: number): number[] => [0x20, ...u32(local)];
export const set = (local: number): number[] => [0x21, ...u32(local)];
export const loop = (body: readonly number[]): number[] => [0x03, BLOCK_WITHOUT_RESULT, ...body, 0x0b];
export const block = (body: readonly number[]): number[] => [0x02, BLOCK_WITHOUT_RESULT, ...body, 0x0b];
/** Jumps to the start of the loop, or to the end of the block, that is number `depth` around it, counted from 0. */
export const branch = (depth: number): number[] => [0x0c, ...u32(depth)];
export const branchIf = (depth: number): number[] => [0x0d, ...u32(depth)];

export const i32 = {
	const: (value: number): number[] => [0x41, ...s32(value)],
	eqz: [0x45],
	lessUnsigned: [0x49],
	add: [0x6a],
	sub: [0x6b],
} as const;

export const v128 = {
	load: (offset: number): number[] => [...simd(0), ...memarg(offset)],
	store: (offset: number): number[] => [...simd(11), ...memarg(offset)],
	/** Byte i of the result is byte `lanes[i]` of the first operand, or, from 16 on, of the second. */
	shuffle: (lanes: readonly number[]): number[] => [...simd(13), ...lanes],
	/** The first bytes; the rest is zero. */
	const: (bytes: readonly number[]): number[] => [...simd(12), ...Array.from({ length: 16 }, (_, i) => bytes[i] ?? 0)],
	xor: simd(81),
	/** Four sums of 32 bits each. */
	add32: simd(174),
} as const;
