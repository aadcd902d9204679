import { leavesOf } from '../device/tree.js';
import { nameToBytes } from '../latin1.js';
import type { StreamImage } from './content.js';
import { deviceTrees } from './devices.js';

/** Registers of a CPU, by path in its device state. */
type Registers = (path: string) => bigint;

/** General registers as `env.regs` numbers them. QEMU 7.2 target/i386/cpu.h `R_EAX` and following. */
const R = { rax: 0, rcx: 1, rdx: 2, rbx: 3, rsp: 4, rbp: 5, rsi: 6, rdi: 7 } as const;
/** Segments as `env.segs` numbers them: `R_ES` and following. */
const SEGMENTS = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5 } as const;
/** Bytes of NT_PRSTATUS on x86-64. Linux include/linux/elfcore.h; QEMU 7.2 target/i386/arch_dump.c. */
const PRSTATUS_SIZE = 336;
/** Bytes of QEMU's own note. QEMU 7.2 target/i386/arch_dump.c `QEMUCPUState`. */
const QEMU_STATE_SIZE = 440;

/** Type of our own note. Readers look at the type before the name: it must be none they know. */
const INVENTORY = 0x4356_4d00;

/** One note of an ELF core. */
interface Note {
	readonly name: string;
	readonly type: number;
	readonly data: Uint8Array;
}

/**
 * The notes of a core: per CPU, NT_PRSTATUS as GDB reads it and `QEMU` as `crash` does, if the stream describes its CPUs;
 * then `CVM`, a text with a line per block: name, bytes, and where it is in the core.
 */
export function encodeNotes(image: StreamImage, inventory: string, cpus: boolean): Uint8Array {
	const notes: Note[] = [];
	const states = cpus ? cpuRegisters(image) : [];
	states.forEach((registers, i) => {
		notes.push({ name: 'CORE', type: 1, data: prstatus(registers, i + 1) });
	});
	for (const registers of states) notes.push({ name: 'QEMU', type: 0, data: qemuState(registers) });
	notes.push({ name: 'CVM', type: INVENTORY, data: nameToBytes(inventory) });
	return joinNotes(notes);
}

/** The devices `cpu`, decoded. */
function cpuRegisters(image: StreamImage): Registers[] {
	const found: Registers[] = [];
	for (const { tree } of deviceTrees(image)) {
		if (tree?.idstr !== 'cpu') continue;
		const values = new Map<string, bigint>();
		for (const { path, field } of leavesOf(tree)) {
			if (field.kind === 'integer') values.set(path, BigInt(field.value));
			else if (field.kind === 'integers') {
				for (const [i, value] of [...field.value].entries()) values.set(`${path}[${i}]`, BigInt(value));
			}
		}
		if (values.has('env.regs[15]')) found.push((path) => values.get(path) ?? 0n);
	}
	return found;
}

function prstatus(get: Registers, pid: number): Uint8Array {
	const out = new Uint8Array(PRSTATUS_SIZE);
	const view = new DataView(out.buffer);
	view.setUint32(32, pid, true);
	const general = (name: keyof typeof R): bigint => get(`env.regs[${R[name]}]`);
	const numbered = (number: number): bigint => get(`env.regs[${number}]`);
	const segment = (name: keyof typeof SEGMENTS, part: string): bigint => get(`env.segs[${SEGMENTS[name]}].${part}`);
	const words = [
		...[15, 14, 13, 12].map(numbered),
		general('rbp'),
		general('rbx'),
		...[11, 10, 9, 8].map(numbered),
		...(['rax', 'rcx', 'rdx', 'rsi', 'rdi'] as const).map(general),
		// orig_rax: no system call.
		0n,
		get('env.eip'),
		segment('cs', 'selector'),
		get('env.eflags'),
		general('rsp'),
		segment('ss', 'selector'),
		segment('fs', 'base'),
		segment('gs', 'base'),
		...(['ds', 'es', 'fs', 'gs'] as const).map((name) => segment(name, 'selector')),
	];
	for (const [i, word] of words.entries()) view.setBigUint64(112 + 8 * i, word, true);
	return out;
}

function qemuState(get: Registers): Uint8Array {
	const out = new Uint8Array(QEMU_STATE_SIZE);
	const view = new DataView(out.buffer);
	view.setUint32(0, 1, true);
	view.setUint32(4, QEMU_STATE_SIZE, true);
	let at = 8;
	const word = (value: bigint): void => {
		view.setBigUint64(at, value, true);
		at += 8;
	};
	for (const name of ['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rsp', 'rbp'] as const)
		word(get(`env.regs[${R[name]}]`));
	for (let i = 8; i < 16; i++) word(get(`env.regs[${i}]`));
	word(get('env.eip'));
	word(get('env.eflags'));
	const segments = (['cs', 'ds', 'es', 'fs', 'gs', 'ss'] as const).map((name) => `env.segs[${SEGMENTS[name]}]`);
	for (const path of [...segments, 'env.ldt', 'env.tr', 'env.gdt', 'env.idt']) {
		for (const [i, part] of ['selector', 'limit', 'flags'].entries()) {
			view.setUint32(at + 4 * i, Number(BigInt.asUintN(32, get(`${path}.${part}`))), true);
		}
		at += 16;
		word(get(`${path}.base`));
	}
	for (const number of [0, 1, 2, 3, 4]) word(get(`env.cr[${number}]`));
	word(get('env.kernelgsbase'));
	return out;
}

const padded = (length: number): number => Math.ceil(length / 4) * 4;

function joinNotes(notes: readonly Note[]): Uint8Array {
	const sizes = notes.map(({ name, data }) => 12 + padded(name.length + 1) + padded(data.length));
	const out = new Uint8Array(sizes.reduce((sum, size) => sum + size, 0));
	const view = new DataView(out.buffer);
	let at = 0;
	for (const [i, { name, type, data }] of notes.entries()) {
		view.setUint32(at, name.length + 1, true);
		view.setUint32(at + 4, data.length, true);
		view.setUint32(at + 8, type, true);
		out.set(nameToBytes(name), at + 12);
		out.set(data, at + 12 + padded(name.length + 1));
		at += sizes[i] ?? 0;
	}
	return out;
}
