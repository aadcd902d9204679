import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { mappedStream } from '../../test/dialect-streams.js';
import { noneMachine } from '../../test/fixtures/none-machine.js';
import { beginStream, page, ramPart, written } from '../../test/streams.js';
import type { Detection, Dialect, StreamWriter } from '../index.js';
import { DialectProbe, detectDialect } from '../index.js';
import { TOY_PREFIX } from '../testing.js';

const header = new Uint8Array(52);
const prefixed = (w: StreamWriter): void => w.encryptedPage('pc.ram', 0, header, page(1), TOY_PREFIX);
const region = { gfnStart: 16n, gfnEnd: 32n };
const slot = { word: 1, startGpa: 0n, pages: 64n, bitmap: new Uint8Array(8).fill(0xff) };

const complete = (records: (writer: StreamWriter) => void, machineType = 'none'): Promise<Uint8Array> =>
	written((w) => {
		w.header();
		w.configuration({ machineType, subsections: [] });
		w.sectionBegin({ ...ramPart, type: 1 });
		w.blockList([{ idstr: 'pc.ram', usedLength: 16 * PAGE_SIZE }]);
		w.endOfRecords();
		w.sectionEnd(ramPart);
		w.sectionBegin(ramPart);
		w.rawPage('pc.ram', 0, page(1));
		records(w);
		w.endOfRecords();
		w.sectionEnd(ramPart);
		w.eof();
	});

const verdicts = ({ candidates }: Detection, verdict: string): Dialect[] =>
	candidates.filter((candidate) => candidate.verdict === verdict).map(({ dialect }) => dialect);

describe('the dialect of a stream', () => {
	it.each<[Dialect, (writer: StreamWriter) => void]>([
		['qemu-9', (w) => w.multifdFlush()],
		['sev-v1', (w) => w.encryptedBitmap('pc.ram', 0, [slot])],
		['sev-list', (w) => w.hostRegions('pc.ram', 0, { start: 1, regions: [region], end: 2 })],
		['sev-v4', (w) => w.sharedRegions('pc.ram', 0, [{ gfnStart: 16, gfnEnd: 32 }])],
		['mh-v1', (w) => w.migrationHelperPage('pc.ram', 0, new Uint8Array(12), page(1), undefined)],
		['mh-v2', (w) => w.migrationHelperPage('pc.ram', 0, new Uint8Array(12), page(1), 4)],
	])('%s is told by its own records', async (dialect, records) => {
		const data = await complete(records);
		const found = await detectDialect(data);
		expect(found).toMatchObject({ best: dialect, certain: true, stream: 'migration' });
		expect(found.candidates[0]).toMatchObject({ dialect, verdict: 'confirmed' });
		expect(found.candidates[0]?.evidence[0]).toMatchObject({ supports: true });
		expect(found.candidates[0]?.evidence[0]?.text).toContain('flag 0x200');
		const refuted = found.candidates.filter(({ verdict }) => verdict === 'refuted');
		// The helper's dialect reads what the one it is built on reads.
		expect(refuted.length).toBe(dialect === 'sev-v4' ? 5 : 6);
		for (const { evidence } of refuted) expect(evidence.at(-1)).toMatchObject({ supports: false });
	});

	it('is told in chunks of any size, as soon as one is left', async () => {
		const data = await complete((w) => w.multifdFlush());
		for (const size of [1, 5, 4096]) {
			const probe = new DialectProbe();
			let at = 0;
			while (!probe.push(data.slice(at, at + size))) at += size;
			expect(probe.result()).toMatchObject({ best: 'qemu-9', certain: true });
			expect(at).toBeLessThan(data.length);
		}
	});

	it('stays open between those that share pages, until the list at the end', async () => {
		const pages = (await complete(prefixed)).slice(0, -12);
		const found = await detectDialect(pages, { limit: pages.length });
		expect(found).toMatchObject({ best: 'sev-v4', certain: false });
		expect(verdicts(found, 'confirmed')).toEqual(['sev-v4', 'mh-v2', 'sev-v1', 'sev-list']);
		const list = await complete((w) => {
			prefixed(w);
			w.hostRegions('pc.ram', 0, { start: 1, regions: [region], end: 2 });
		});
		expect(await detectDialect(list)).toMatchObject({ best: 'sev-list', certain: true });
	});

	it('makes no difference where no record tells, and is upstream then', async () => {
		expect(await detectDialect(noneMachine())).toMatchObject({ best: 'qemu-7.2', certain: true });
		const newer = await detectDialect(await complete(() => {}, 'pc-q35-9.0'));
		expect(newer).toMatchObject({ best: 'qemu-9', certain: true });
		expect(newer.candidates[0]?.evidence).toEqual([{ offset: 8, supports: true, text: 'machine type pc-q35-9.0' }]);
		expect(await detectDialect(await mappedStream([2]))).toMatchObject({ best: 'qemu-9' });
	});

	it('is ambiguous for a helper page without header in both helper dialects', async () => {
		const data = await complete((w) => w.migrationHelperPage('pc.ram', 0, new Uint8Array(0), page(0), 4));
		const found = await detectDialect(data);
		expect(found).toMatchObject({ best: 'mh-v2', certain: false });
		expect(verdicts(found, 'confirmed')).toEqual(['mh-v2', 'mh-v1']);
	});

	it('of a damaged stream is the one that gets farthest', async () => {
		const data = await complete((w) => {
			w.multifdFlush();
			w.zeroPage('pc.ram', 0, 0);
			w.opaqueBody(new Uint8Array(40));
		});
		const found = await detectDialect(data);
		expect(found.best).toBe('qemu-9');
		expect(verdicts(found, 'refuted').length).toBe(7);
		expect(found.certain).toBe(false);
	});

	it('of a cut stream does not suffer from the cut', async () => {
		const data = await complete((w) => w.multifdFlush());
		expect(await detectDialect(data.slice(0, -3))).toMatchObject({ best: 'qemu-9', certain: true });
	});
});

describe('what a connection carries', () => {
	it.each<[string, Uint8Array, Partial<Detection>]>([
		['nothing', new Uint8Array(0), { best: undefined, stream: 'migration', other: undefined, bytes: 0 }],
		['text', new TextEncoder().encode('no stream of any kind'), { best: undefined, stream: 'migration' }],
		[
			'a multifd channel',
			Uint8Array.of(0x11, 0x22, 0x33, 0x44, ...new Uint8Array(60)),
			{ best: undefined, other: 'multifd' },
		],
		[
			'a libvirt save file',
			new TextEncoder().encode('LibvirtQemudSave\x02\0\0\0'),
			{ best: undefined, other: 'libvirt-save' },
		],
	])('is seen in the first bytes: %s', async (_name, data, expected) => {
		expect(await detectDialect(data)).toMatchObject(expected);
		expect(await detectDialect([data.subarray(0, 3), data.subarray(3)])).toMatchObject(expected);
	});

	it('is a recovery if it begins with a command, and preempt if with a record', async () => {
		const recovery = await written((w) => {
			w.command(10, Uint8Array.of(1, 0x61));
			w.command(9, new Uint8Array(0));
			w.eof();
		});
		expect(await detectDialect(recovery)).toMatchObject({ best: 'qemu-7.2', stream: 'recovery' });
		const preempt = await written((w) => {
			w.zeroPage('pc.ram', 0, 0);
			w.endOfRecords();
		});
		expect(await detectDialect(preempt)).toMatchObject({ best: 'qemu-7.2', stream: 'preempt' });
		const main = await written((w) => beginStream(w));
		expect(await detectDialect(main)).toMatchObject({ best: 'qemu-7.2', stream: 'migration' });
	});
});
