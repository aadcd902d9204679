import { nodeProvider } from '@cvm/crypto/node';
import { PAGE_SIZE } from '@cvm/layout';
import { beforeEach, describe, expect, it } from 'vitest';
import { HelperGeometry } from '../src/geometry.js';
import { streamAddress } from '../src/session/index.js';
import { sidesWith } from './attack-rig.js';
import {
	answer,
	filled,
	guestPages,
	handOver,
	makeManifest,
	migrate,
	type Side,
	saveAll,
	shakeHands,
	takeManifest,
} from './migration-rig.js';
import { sealsOf } from './seals.js';

/*
 * Attacks on the hardened helper that are in no catalogue: messages back to where they came from, across streams, old, cut short. And
 * those that no helper on plain SEV can prevent, each with what the host needs for it: memory without integrity, registers without an
 * owner. TDX and SNP take both away.
 */

const RAM = [
	{ start: 0x1000000, end: 0x1002000 },
	{ start: 0x1080000, end: 0x1082000 },
];
const PAGES = guestPages(RAM);
const [FIRST = 0, SECOND = 0, OTHER_STREAM = 0] = PAGES;
const side = sidesWith(RAM);
/** Messages of a session by who takes them; each is made when it is asked for. */
const TAKERS = ['accept', 'confirm', 'establish', 'nextEpoch', 'verify', 'start', 'run', 'retire', 'revive'] as const;

let source: Side;
let target: Side;
beforeEach(() => {
	source = side('source', 'idle');
	target = side('target', 'empty');
	for (const [i, gpa] of PAGES.entries()) source.memory.write(gpa, filled(0x10 + i));
});

/** Up to READY, with the guest frozen. */
const prove = (): Uint8Array => {
	shakeHands(source, target);
	source.run('freeze');
	for (const record of saveAll(source, PAGES)) target.restore(record);
	return takeManifest(target, makeManifest(source));
};

describe('hardened helper: messages that are not where they belong', () => {
	it('none is taken by a command that it is not for, at either end: not by the sender either', () => {
		const messages: [string, Uint8Array][] = [];
		const hello = source.run('hello', undefined, 1);
		const accept = target.run('accept', hello);
		const confirm = source.run('confirm', accept);
		target.run('establish', confirm);
		const epoch = source.run('epoch');
		target.run('nextEpoch', epoch);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) target.restore(record);
		const manifest = makeManifest(source);
		const ready = takeManifest(target, manifest);
		const start = source.run('start', ready);
		messages.push(['accept', hello], ['confirm', accept], ['establish', confirm], ['nextEpoch', epoch]);
		messages.push(['verify', manifest], ['start', ready], ['run', start]);
		const phases = [source.phase, target.phase];
		for (const [taker, message] of messages) {
			for (const end of [source, target]) {
				for (const command of TAKERS) {
					const isRight =
						command === taker && ((command === 'start' && end === source) || (command === 'run' && end === target));
					if (!isRight)
						expect(
							answer(() => end.run(command, message)),
							`${taker} to ${command}`,
						).not.toBe('success');
				}
			}
		}
		expect([source.phase, target.phase]).toEqual(phases);
		source.run('retire', target.run('run', start));
	});

	it('a record back to its sender, and to a helper that has only offered, changes nothing', () => {
		shakeHands(source, target);
		const record = source.save([FIRST]);
		expect(answer(() => source.restore(record))).toBe('phase');
		expect(source.page(FIRST)).toEqual(filled(0x10));
		target.restore(record);
	});

	it('a record of one stream is no record of another, whatever its header says', () => {
		for (const where of ['helper', 'helper and header'] as const) {
			const [s, t] = [side(`s ${where}`, 'idle'), side(`t ${where}`, 'empty')];
			shakeHands(s, t, 2);
			const record = s.save([FIRST], 0);
			const header = record.header.slice();
			if (where !== 'helper') new DataView(header.buffer).setUint16(0x20, 1, true);
			expect(
				answer(() => t.restore({ ...record, header, stream: 1 })),
				where,
			).not.toBe('success');
			expect(t.phase).toBe('aborted');
		}
	});

	it('a helper seals and opens only the frames of its own stream', () => {
		shakeHands(source, target, 2);
		expect(answer(() => source.save([OTHER_STREAM], 0))).toBe('stream');
		expect(answer(() => source.save([FIRST], 1))).toBe('stream');
	});

	it('an epoch ends only when the records of all streams arrived', () => {
		shakeHands(source, target, 2);
		target.restore(source.save([FIRST], 0));
		source.save([OTHER_STREAM], 1);
		expect(answer(() => target.run('nextEpoch', source.run('epoch')))).toBe('order');
		expect(target.phase).toBe('aborted');
	});

	it('an ABORT of an earlier session brings no source back that is committed in a later one', () => {
		shakeHands(source, target);
		const old = target.run('abort');
		source.run('cancel');
		const start = source.run('start', prove());
		expect(answer(() => source.run('revive', old))).toBe('authentication');
		expect([source.phase, source.canRun]).toEqual(['committed', false]);
		source.run('retire', target.run('run', start));
	});

	it('a READY or START of an earlier session is none of a later one', () => {
		const ready = prove();
		source.run('cancel');
		target.run('abort');
		const newer = prove();
		expect(answer(() => source.run('start', ready))).toBe('authentication');
		const start = source.run('start', newer);
		source.run('revive', target.run('abort'));
		prove();
		expect(answer(() => target.run('run', start))).toBe('authentication');
		expect(target.canRun).toBe(false);
	});

	it('a START that comes after ABORT runs nothing, an ABORT that comes after RUNNING revives nothing', () => {
		const start = source.run('start', prove());
		const abort = target.run('abort');
		expect(answer(() => target.run('run', start))).toBe('phase');
		source.run('revive', abort);
		const again = source.run('start', prove());
		const running = target.run('run', again);
		expect(answer(() => target.run('abort'))).toBe('phase');
		expect(answer(() => source.run('revive', abort))).not.toBe('success');
		source.run('retire', running);
		expect(answer(() => source.run('revive', abort))).toBe('phase');
	});

	it('a message that is cut short or goes on behind its end is refused, at every length', () => {
		const steps: [keyof typeof ends, (typeof TAKERS)[number], () => Uint8Array][] = [
			['target', 'accept', () => source.run('hello', undefined, 1)],
			['source', 'confirm', () => accept],
			['target', 'establish', () => confirm],
		];
		const ends = { source, target };
		let accept: Uint8Array = new Uint8Array();
		let confirm: Uint8Array = new Uint8Array();
		for (const [end, command, make] of steps) {
			const message = make();
			for (let length = 1; length < message.length; length++) {
				const cut = message.subarray(0, length);
				expect(
					answer(() => ends[end].run(command, cut)),
					`${command}, ${length} bytes`,
				).not.toBe('success');
			}
			const long = new Uint8Array(message.length + 1);
			long.set(message);
			expect(
				answer(() => ends[end].run(command, long)),
				`${command}, a byte more`,
			).not.toBe('success');
			const output = ends[end].run(command, message);
			if (command === 'accept') accept = output;
			else confirm = output;
		}
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) target.restore(record);
		const ready = takeManifest(target, makeManifest(source));
		for (let length = 1; length < ready.length; length++) {
			expect(answer(() => source.run('start', ready.subarray(0, length)))).not.toBe('success');
		}
		const start = source.run('start', ready);
		for (let length = 1; length < start.length; length++) {
			expect(answer(() => target.run('run', start.subarray(0, length)))).not.toBe('success');
		}
		const running = target.run('run', start);
		for (let length = 1; length < running.length; length++) {
			expect(answer(() => source.run('retire', running.subarray(0, length)))).not.toBe('success');
		}
		source.run('retire', running);
	});

	it('a manifest with one bit flipped anywhere is refused, and the session is over', () => {
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) target.restore(record);
		const manifest = makeManifest(source);
		const before = target.memory.clone();
		for (let at = 0; at < manifest.length; at += 7) {
			const altered = manifest.slice();
			altered[at] = (altered[at] ?? 0) ^ (1 << (at % 8));
			expect(
				answer(() => target.run('verify', altered)),
				`byte ${at}`,
			).not.toBe('success');
			expect(target.phase).toBe('aborted');
			target.memory.assign(before);
		}
		handOver(source, target, takeManifest(target, manifest));
	});
});

describe('not preventable on plain SEV', () => {
	it('memory put back: a source rolled back to before START runs beside its target', () => {
		const ready = prove();
		const before = source.memory.clone();
		const start = source.run('start', ready);
		target.run('run', start);
		expect(
			answer(() => source.run('cancel')),
			'as long as memory is left alone',
		).toBe('phase');
		// Ciphertext at its old place is valid: SEV has no integrity. TDX: MAC of each line. SNP: the RMP keeps hosts from writing.
		source.memory.assign(before);
		source.run('cancel');
		expect([source.canRun, target.canRun]).toEqual([true, true]);
	});

	it('memory put back: a target rolled back to before RUNNING gives ABORT to a source that did not retire', () => {
		const start = source.run('start', prove());
		const before = target.memory.clone();
		target.run('run', start);
		const after = target.memory.clone();
		target.memory.assign(before);
		source.run('revive', target.run('abort'));
		target.memory.assign(after);
		expect([source.canRun, target.canRun]).toEqual([true, true]);
	});

	it('memory put back after RETIRE: the host may keep the ciphertext of everything that the helper wiped', () => {
		const ready = prove();
		const before = source.memory.clone();
		handOver(source, target, ready);
		expect(source.page(FIRST)).toEqual(filled(0));
		source.memory.assign(before);
		expect(source.page(FIRST), 'while the key is in the controller: until DEACTIVATE').toEqual(filled(0x10));
	});

	it('registers set: whatever the gate says, the pages are there before START and a host can enter guest code', () => {
		prove();
		expect(target.canRun, 'guest code that asks the gate rests').toBe(false);
		// On plain SEV the host owns RIP: it jumps past the question. With SEV-ES it does not; TDX and SNP neither.
		for (const [i, gpa] of PAGES.entries()) expect(target.page(gpa)).toEqual(filled(0x10 + i));
		expect(target.memory.exchange(HelperGeometry.gate, 1), 'the gate is a word of private memory').toBe(1);
	});
});

describe('hardened helper: counters that a host puts back with memory', () => {
	it('A12: give no two records one key and IV: each has a key of its own, out of a random salt', () => {
		const { provider, seals } = sealsOf(nodeProvider);
		const s = side('s', 'idle', { provider });
		const t = side('t', 'empty', { provider });
		s.memory.write(FIRST, filled(1));
		s.memory.write(SECOND, filled(2));
		shakeHands(s, t);
		const counters = new Uint8Array(PAGE_SIZE);
		s.memory.read(streamAddress(0), counters);
		s.save([FIRST]);
		s.memory.write(streamAddress(0), counters);
		s.save([SECOND]);
		expect(seals.length).toBe(2);
		expect(new Set(seals).size).toBe(2);
	});

	it('A12: nor two messages', () => {
		const { provider, seals } = sealsOf(nodeProvider);
		const s = side('s', 'idle', { provider });
		const t = side('t', 'empty', { provider });
		shakeHands(s, t);
		const before = s.memory.clone();
		s.run('epoch');
		s.memory.assign(before);
		s.save([FIRST]);
		s.run('epoch');
		expect(new Set(seals).size).toBe(seals.length);
	});
});

describe('a chain of machines', () => {
	it('A12: A → B → C, and B is a source like any other, with keys of its own', () => {
		const third = side('third', 'empty');
		migrate(source, target);
		expect([source.phase, target.phase]).toEqual(['retired', 'idle']);
		expect(target.write(SECOND, filled(0x55))).toBe(true);
		migrate(target, third);
		expect([source.canRun, target.canRun, third.canRun]).toEqual([false, false, true]);
		expect(third.page(FIRST)).toEqual(filled(0x10));
		expect(third.page(SECOND)).toEqual(filled(0x55));
	});
});

describe('hardened helper with SEV-ES: vCPUs that are entered after the freeze', () => {
	const AREA = 0x2000000;
	const ES = { ram: [...RAM, { start: AREA, end: AREA + PAGE_SIZE }], saveAreas: [AREA] };
	/** What a vCPU leaves behind that ran for an instruction more. */
	const enter = (): void => source.memory.write(AREA + 0x178, Uint8Array.of(0x77));

	it.each(['before its state is saved', 'before MANIFEST', 'before START'] as const)(
		'A15: %s: registers and memory are not of one moment, and the source refuses to go',
		(when) => {
			source = side('source', 'idle', ES);
			target = side('target', 'empty', ES);
			source.memory.write(AREA, filled(0x42));
			shakeHands(source, target);
			source.run('freeze');
			for (const record of saveAll(source, PAGES)) target.restore(record);
			if (when === 'before its state is saved') enter();
			target.run('restoreVcpu', source.run('saveVcpu'));
			target.restore(source.save([AREA]));
			if (when === 'before MANIFEST') enter();
			if (when !== 'before START') {
				expect(answer(() => makeManifest(source))).toBe('incomplete');
			} else {
				const ready = takeManifest(target, makeManifest(source));
				enter();
				expect(answer(() => source.run('start', ready))).toBe('incomplete');
				expect(source.phase).toBe('proven');
			}
			source.run('cancel');
			expect([source.canRun, target.canRun]).toEqual([true, false]);
		},
	);
});
