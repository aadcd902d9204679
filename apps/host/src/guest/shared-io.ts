import { ECHO_PORT } from '../ports.js';
import { at, mix, splitmix64 } from './work-state.js';
import { type Workload, workload } from './workload.js';

const PAGE = 4096;

/**
 * Passes data through pages that it turns shared and private again, as a driver does with bounce buffers: a request goes
 * out through a shared page, the host's echo device answers in place, the answer is checked, folded into the checksum and
 * kept in private memory, and the page becomes private once more. The first half of the slice is the pool of bounce pages,
 * the second half keeps the answers.
 *
 * Registers: R15 the state page, R14 the bounce page of this round, R13 the word that seeds its contents.
 */
export const sharedIo: Workload = workload('shared-io', {
	'shared-io.tick': (cpu) => {
		const state = Number(cpu.reg('r15'));
		const limit = cpu.loadU64(state + at.limit);
		const steps = cpu.loadU64(state + at.steps);
		if (limit !== 0n && steps >= limit) return cpu.jump('shared-io.publish');
		const draw = splitmix64(cpu.loadU64(state + at.cursor));
		cpu.storeU64(state + at.cursor, draw.state);
		const pool = cpu.loadU64(state + at.size) / 2n / BigInt(PAGE);
		const page = cpu.loadU64(state + at.base) + (draw.value % pool) * BigInt(PAGE);
		cpu.setReg('r14', page);
		cpu.setReg('r13', draw.value);
		cpu.setReg('rdi', page);
		cpu.setReg('rsi', 1n);
		return cpu.call('set_memory_decrypted', 'shared-io.request');
	},
	'shared-io.request': (cpu) => {
		const page = Number(cpu.reg('r14'));
		cpu.store(page, pattern(cpu.reg('r13')));
		cpu.setReg('rax', BigInt(page / PAGE));
		return cpu.out(ECHO_PORT, 4, 'shared-io.answer');
	},
	'shared-io.answer': (cpu) => {
		const state = Number(cpu.reg('r15'));
		const page = Number(cpu.reg('r14'));
		const answer = new Uint8Array(PAGE);
		cpu.load(page, answer);
		const expected = pattern(cpu.reg('r13'));
		// A wrong answer would be the host's doing, or a page lost on the way: it must show, so the checksum takes it in.
		const wrong = answer.reduce((n, byte, i) => n + (byte === (~(expected[i] ?? 0) & 0xff) ? 0 : 1), 0);
		const checksum = mix(cpu.loadU64(state + at.checksum), BigInt(digest(answer)));
		cpu.storeU64(state + at.checksum, mix(checksum, BigInt(wrong)));
		const base = Number(cpu.loadU64(state + at.base));
		const half = Number(cpu.loadU64(state + at.size)) / 2;
		cpu.store(base + half + (page - base), answer);
		cpu.setReg('rdi', cpu.reg('r14'));
		cpu.setReg('rsi', 1n);
		return cpu.call('set_memory_encrypted', 'shared-io.scrub');
	},
	'shared-io.scrub': (cpu) => {
		// What the page holds after its C-bit came back is ciphertext read as plaintext; a driver clears it before use.
		cpu.fill(Number(cpu.reg('r14')), PAGE, 0);
		const state = Number(cpu.reg('r15'));
		cpu.storeU64(state + at.steps, cpu.loadU64(state + at.steps) + 1n);
		return cpu.jump('shared-io.publish');
	},
});

/** The bytes of a request: a page of xorshift32 from one seed. */
function pattern(seed: bigint): Uint8Array {
	const words = new Uint32Array(PAGE / 4);
	let x = Number(seed & 0xffffffffn) || 1;
	for (let i = 0; i < words.length; i++) {
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		words[i] = x;
	}
	return new Uint8Array(words.buffer);
}

/** FNV-1a over a page. */
function digest(page: Uint8Array): number {
	let hash = 0x811c9dc5;
	for (const byte of page) hash = Math.imul(hash ^ byte, 0x01000193);
	return hash >>> 0;
}
