import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { layout, u8, u16, u32, u64 } from '@cvm/layout';
import { findInPath } from './shim.js';

/* ELF as System V ABI, "Object Files", and its x86-64 supplement have it; the fields used here. */
const elfHeader = layout('Elf64_Ehdr', 64, {
	magic: u32(0),
	class: u8(4),
	phoff: u64(32),
	phentsize: u16(54),
	phnum: u16(56),
});
const ELF_MAGIC = 0x464c457f;
const ELFCLASS64 = 2;
const PT_INTERP = 3;

const SETID = 0o6000;
/** The kernel follows scripts that are interpreted by scripts no further: BINPRM_MAX_RECURSION, Linux fs/exec.c. */
const SCRIPT_DEPTH = 5;
const HEAD = 4096;

/** A program's head, and its mode. */
function examine(path: string): { head: Buffer; mode: number; uid: number } {
	const fd = openSync(path, 'r');
	try {
		const head = Buffer.alloc(HEAD);
		const { mode, uid } = fstatSync(fd);
		return { head: head.subarray(0, readSync(fd, head, 0, HEAD, 0)), mode, uid };
	} finally {
		closeSync(fd);
	}
}

function judgeElf(head: Buffer): string | undefined {
	const { class: width, phoff, phentsize, phnum } = elfHeader.decodePrefix(head);
	if (width !== ELFCLASS64) return 'is a 32-bit program, and the preloaded library is for 64-bit ones';
	for (let i = 0; i < phnum; i++) {
		const at = Number(phoff) + i * phentsize;
		if (at + 4 > head.length) return undefined; // an unusual file: let it try
		if (head.readUInt32LE(at) === PT_INTERP) return undefined;
	}
	return 'is statically linked: a preloaded library (LD_PRELOAD) cannot reach it';
}

/**
 * Why a preloaded library would not get into a program: `undefined` if it would, or if this cannot be told.
 *
 * @param program path, or a name to look up in the PATH
 */
export function whyUnreachable(program: string, depth = SCRIPT_DEPTH): string | undefined {
	const path = findInPath(program);
	if (path === undefined || depth === 0) return undefined;
	let examined: ReturnType<typeof examine>;
	try {
		examined = examine(path);
	} catch {
		return undefined; // executable but not readable
	}
	const { head, mode, uid } = examined;
	const interpreter = /^#![ \t]*([^\s]+)/.exec(head.toString('latin1'))?.[1];
	if (interpreter !== undefined) return whyUnreachable(interpreter, depth - 1);
	if (head.length < elfHeader.size || head.readUInt32LE(0) !== ELF_MAGIC) return undefined;
	if ((mode & SETID) !== 0 && uid !== process.getuid?.()) {
		return `${path} changes its user or group: the system ignores preloaded libraries for it`;
	}
	const reason = judgeElf(head);
	return reason && `${path} ${reason}`;
}
