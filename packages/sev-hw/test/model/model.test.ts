import { spa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { COMMANDS, type CommandName } from '../../src/abi/commands.js';
import { Policy } from '../../src/abi/policy.js';
import { statusName } from '../../src/abi/status.js';
import { ASID, BUFFER_AT, certificatesOf, initialised, MIB } from '../rig.js';
import { dice } from './dice.js';
import { newTally, runModel } from './run.js';

/*
 * Random commands against a model that knows what the firmware must answer: 10,000 from a fixed seed, or with CVM_LONG=1 a
 * million from a fresh one, or from CVM_SEED. A failure names the seed of its piece: CVM_SEED='…' alone runs that again.
 */

const PIECE = 10_000;
const PIECES = 100;
const isLong = process.env['CVM_LONG'] === '1';
const seed = process.env['CVM_SEED'] ?? (isLong ? `long ${Date.now().toString(36)}` : 'model');
const seeds = isLong ? Array.from({ length: PIECES }, (_, i) => `${seed}/${i}`) : [seed];
const NAMES = Object.keys(COMMANDS) as CommandName[];

const other = certificatesOf(initialised({ seed: 'target' }));
const own = certificatesOf(initialised());
const parts = { other, signedCek: own.platform.slice(-2084), amd: other.amd };

describe('the firmware and its model', () => {
	const tally = newTally();

	it.each(seeds)(`agree on ${PIECE} random commands of seed %s`, { timeout: 600_000 }, (piece) => {
		runModel(piece, PIECE, parts, tally);
	});

	it('ran every command to its end, and knew nearly every answer in advance', () => {
		expect(NAMES.filter((name) => !tally.succeeded.has(name))).toEqual([]);
		expect(tally.known).toBeGreaterThan(0.95 * PIECE * seeds.length);
	});

	it('go the same way again from the same seed', () => {
		const once = runModel('twins', 1000, parts, newTally());
		expect(runModel('twins', 1000, parts, newTally())).toEqual(once);
	});
});

it('command buffers of random bytes: nothing is thrown, and no plaintext comes out', () => {
	const d = dice('noise');
	const rig = initialised({ dramBytes: 2 * MIB });
	rig.must('LAUNCH_START', { policy: Policy.NODBG });
	rig.must('ACTIVATE', { handle: 1, asid: ASID });
	const page = new Uint8Array(4096).fill(0x5a);
	rig.machine.dram.set(page, 0x180000);
	rig.must('LAUNCH_UPDATE_DATA', { handle: 1, paddr: 0x180000n, length: 4096 });
	for (let i = 0; i < 3000; i++) {
		const { id } = COMMANDS[d.oneOf(NAMES.filter((name) => name !== 'SHUTDOWN'))];
		const bytes = d.bytes(72);
		if (!d.once(2)) bytes.set([1 + d.below(2), 0, 0, 0]);
		rig.machine.dram.set(bytes, BUFFER_AT);
		expect(statusName(rig.machine.psp.submit(id, spa(BUFFER_AT)))).not.toMatch(/^0x/);
	}
	expect(Buffer.from(rig.machine.dram).includes(Buffer.from(page.subarray(0, 16)))).toBe(false);
});
