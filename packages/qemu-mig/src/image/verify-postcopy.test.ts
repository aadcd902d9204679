import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { randomContent, writeBeginning } from '../../test/image-fixtures.js';
import { page, ramPart, written } from '../../test/streams.js';
import { POSTCOPY_PAUSED, verifyStream } from '../image.js';
import type { StreamWriter } from '../index.js';
import { Command, encodeCommand } from '../index.js';

const two = randomContent(1, [2]);
const SECTION = 'error while loading state section id 2(ram)';

/** Up to the guest's start on the target, and a page after it. */
const begin = (writer: StreamWriter): void => {
	writeBeginning(writer, two);
	writer.command(Command.postcopyAdvise, encodeCommand(ADVISE));
	writer.ramDiscard('pc.ram', [{ start: 0n, length: BigInt(2 * PAGE_SIZE) }]);
	writer.command(Command.postcopyListen, new Uint8Array(0));
	writer.command(Command.postcopyRun, new Uint8Array(0));
	writer.sectionBegin(ramPart);
	writer.rawPage('pc.ram', 0, page(1));
};
const ADVISE = { command: Command.postcopyAdvise, pageSizes: 4096n, targetPageSize: 4096n } as const;
const go = (writer: StreamWriter): void => {
	writer.command(Command.recvBitmap, encodeCommand({ command: Command.recvBitmap, block: 'pc.ram' }));
	writer.command(Command.postcopyResume, new Uint8Array(0));
	writer.sectionBegin(ramPart);
	writer.rawPage('pc.ram', PAGE_SIZE, page(2));
};
const rest = (writer: StreamWriter): void => {
	go(writer);
	writer.endOfRecords();
	writer.sectionEnd(ramPart);
	writer.eof();
};

/** Findings with what QEMU says, of inputs judged as by a target. */
async function judged(...inputs: readonly Uint8Array[]) {
	const verification = await verifyStream(
		inputs.map((source) => ({ source })),
		{ as: 'qemu-7.2' },
	);
	const said = verification.findings.filter(({ qemu }) => qemu !== undefined);
	return { ...verification, said: said.map(({ rule, input = 0, qemu }) => [rule, input, qemu]) };
}

describe('verify as a target', () => {
	it('reads on after a connection of postcopy broke, and says what the target said there', async () => {
		// What Debian's QEMU 7.2.22 prints for cuts at the same places.
		const whole = await written((w) => {
			begin(w);
			w.endOfRecords();
			w.sectionEnd(ramPart);
		});
		const recovery = await written(rest);
		const footer = whole.length - 5;
		for (const [at, ...lines] of [
			[footer - 8 - 3000, SECTION],
			[footer - 8, SECTION],
			[footer - 5, SECTION],
			[footer, 'check_section_footer: Read section footer failed: -5'],
			[footer + 3, 'Mismatched section id in footer for ram - read 0x0 expected 0x2'],
			[whole.length],
		] as const) {
			const { said, complete } = await judged(whole.subarray(0, at), recovery);
			expect([at, complete]).toEqual([at, true]);
			expect(said).toEqual([['postcopy/cut', 0, [...lines, POSTCOPY_PAUSED]]]);
		}
	});

	it('tells of each connection that broke, and of the one that something is wrong with', async () => {
		const first = await written(begin);
		const second = await written(go);
		const third = await written(rest);
		const { said, complete } = await judged(first, second, third);
		expect(complete).toBe(true);
		expect(said.map(([rule, input]) => [rule, input])).toEqual([
			['postcopy/cut', 0],
			['postcopy/cut', 1],
		]);
		// RECV_BITMAP without a name.
		const bad = await written((w) => {
			w.command(Command.recvBitmap, new Uint8Array(1));
			w.command(Command.postcopyResume, new Uint8Array(0));
		});
		const { findings } = await judged(first, bad);
		expect(findings.find(({ rule }) => rule === 'stream/command')).toMatchObject({
			input: 1,
			offset: 0,
			qemu: ['loadvm_handle_recv_bitmap: failed to read block name'],
		});
	});
});
