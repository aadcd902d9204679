import { readFileSync } from 'node:fs';
import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { contentStream, opened, randomContent, rewritten } from '../../test/image-fixtures.js';
import { device, page, ramEnd, ramPart, ramStart, written } from '../../test/streams.js';
import type { VerifyOptions } from '../image.js';
import { VERIFY_RULES, verifyStream } from '../image.js';
import type { StreamWriter } from '../index.js';
import { describeSections } from '../index.js';
import { TOY_PREFIX } from '../testing.js';

/** Parts of a small stream of two pages and one device, each of which a case may replace. */
interface Parts {
	configuration(writer: StreamWriter): void;
	list(writer: StreamWriter): void;
	part(writer: StreamWriter): void;
	end(writer: StreamWriter): void;
	devices(writer: StreamWriter): void;
	tail(writer: StreamWriter): void;
}

const deviceSection = (writer: StreamWriter, id: number, idstr: string, body = [1, 2, 3]): void => {
	writer.sectionBegin(device(id, idstr));
	writer.opaqueBody(Uint8Array.from(body));
	writer.sectionEnd(device(id, idstr));
};
const ramSection = (writer: StreamWriter, section: typeof ramStart, records: (writer: StreamWriter) => void): void => {
	writer.sectionBegin(section);
	records(writer);
	writer.endOfRecords();
	writer.sectionEnd(section);
};
const describe_ = (writer: StreamWriter, size = 3): void =>
	writer.vmDescription(describeSections([{ idstr: 'timer', instanceId: 0, size }]));

const SOUND: Parts = {
	configuration: (w) => w.configuration({ machineType: 'pc-i440fx-7.2', subsections: [] }),
	list: (w) => w.blockList([{ idstr: 'pc.ram', usedLength: 2 * PAGE_SIZE }]),
	part: (w) => {
		w.rawPage('pc.ram', 0, page(1));
		w.zeroPage('pc.ram', PAGE_SIZE, 0);
	},
	end: (w) => ramSection(w, ramEnd, () => {}),
	devices: (w) => deviceSection(w, 5, 'timer'),
	tail: (w) => {
		w.eof();
		describe_(w);
	},
};

const stream = (parts: Partial<Parts>): Promise<Uint8Array> => {
	const all = { ...SOUND, ...parts };
	return written((w) => {
		w.header();
		all.configuration(w);
		ramSection(w, ramStart, all.list);
		ramSection(w, ramPart, all.part);
		all.end(w);
		all.devices(w);
		all.tail(w);
	});
};

const rulesOf = async (data: Uint8Array, options: VerifyOptions = {}): Promise<string[]> =>
	(await verifyStream(data, options)).findings.map(({ rule }) => rule);

it('finds nothing in a sound stream', async () => {
	expect(await verifyStream(await stream({}))).toMatchObject({ findings: [], more: 0, complete: true });
	expect(await rulesOf(await contentStream(randomContent(1)))).toEqual([]);
	expect(await rulesOf(await contentStream(randomContent(1), true), { dialect: 'sev-v4' })).toEqual([]);
});

const zlibOfJunk = Uint8Array.of(0x78, 1, 2, 3, 4, 5, 6, 7);

/** What trips a rule, alone. */
const CASES: readonly [keyof typeof VERIFY_RULES, Partial<Parts>][] = [
	['config/machine', { configuration: (w) => w.configuration({ machineType: '', subsections: [] }) }],
	[
		'config/capability',
		{
			configuration: (w) =>
				w.configuration({
					machineType: 'none',
					subsections: [
						{ name: 'configuration/capabilities', version: 1, data: Uint8Array.of(0, 0, 0, 1, 2, 0x61, 0x62) },
					],
				}),
		},
	],
	['ram/page-missing', { part: (w) => w.rawPage('pc.ram', 0, page(1)) }],
	['ram/end', { end: () => {} }],
	[
		'ram/after-end',
		{
			end: (w) => {
				ramSection(w, ramEnd, () => {});
				ramSection(w, ramPart, () => {});
			},
		},
	],
	[
		'ram/listed-again',
		{
			part: (w) => {
				SOUND.list(w);
				SOUND.part(w);
			},
		},
	],
	[
		'ram/length',
		{
			list: (w) =>
				w.blockList([
					{ idstr: 'pc.ram', usedLength: PAGE_SIZE + 0 },
					{ idstr: 'odd', usedLength: PAGE_SIZE - 1 },
					{ idstr: 'b', usedLength: 1 },
				]),
			part: (w) => {
				for (const name of ['pc.ram', 'odd', 'b']) w.zeroPage(name, 0, 0);
			},
		},
	],
	[
		'ram/fill',
		{
			part: (w) => {
				SOUND.part(w);
				w.zeroPage('pc.ram', 0, 0xaa);
			},
		},
	],
	[
		'ram/delta-base',
		{
			part: (w) => {
				w.encodedPage('xbzrle', 'pc.ram', 0, Uint8Array.of(0, 1, 1));
				w.zeroPage('pc.ram', PAGE_SIZE, 0);
			},
		},
	],
	[
		'ram/delta-empty',
		{
			part: (w) => {
				SOUND.part(w);
				w.encodedPage('xbzrle', 'pc.ram', 0, new Uint8Array(0));
			},
		},
	],
	[
		'order/device-before-ram',
		{
			part: (w) => {
				SOUND.part(w);
				w.endOfRecords();
				w.sectionEnd(ramPart);
				SOUND.devices(w);
				w.sectionBegin(ramPart);
			},
			devices: () => {},
		},
	],
	[
		'device/duplicate',
		{
			devices: (w) => {
				deviceSection(w, 5, 'timer');
				deviceSection(w, 6, 'timer');
			},
		},
	],
	['section/id', { devices: (w) => deviceSection(w, 2, 'timer') }],
	['description/none', { tail: (w) => w.eof() }],
	[
		'description/syntax',
		{
			tail: (w) => {
				w.eof();
				w.vmDescription(new TextEncoder().encode('{"page_size": '));
			},
		},
	],
	[
		'description/page-size',
		{
			tail: (w) => {
				w.eof();
				const text = new TextDecoder().decode(describeSections([{ idstr: 'timer', instanceId: 0, size: 3 }]));
				w.vmDescription(new TextEncoder().encode(text.replace('4096', '8192')));
			},
		},
	],
	[
		'description/absent',
		{
			devices: (w) => {
				SOUND.devices(w);
				deviceSection(w, 6, 'other');
			},
		},
	],
	['description/extra', { devices: () => {} }],
	['description/body', { devices: (w) => deviceSection(w, 5, 'timer', [1, 2]) }],
	[
		'tail/trailing',
		{
			tail: (w) => {
				SOUND.tail(w);
				w.trailing(Uint8Array.of(1));
			},
		},
	],
	[
		'helper/message',
		{
			devices: (w) => {
				w.command(0x4357, Uint8Array.of(1));
				SOUND.devices(w);
			},
		},
	],
	[
		'postcopy/run',
		{
			devices: (w) => {
				w.command(4, new Uint8Array(0));
				SOUND.devices(w);
			},
		},
	],
];

describe('each rule', () => {
	it.each(CASES)('%s is tripped alone', async (rule, parts) => {
		const { findings, complete } = await verifyStream(await stream(parts), { dialect: 'qemu-7.2' });
		expect([...new Set(findings.map((one) => one.rule))]).toEqual([rule]);
		expect(findings[0]?.severity).toBe(VERIFY_RULES[rule][0]);
		expect(complete).toBe(true);
	});

	it('ram/none: a stream of devices alone', async () => {
		const data = await written((w) => {
			w.header();
			SOUND.configuration(w);
			SOUND.devices(w);
			SOUND.tail(w);
		});
		expect(await rulesOf(data)).toEqual(['ram/none']);
	});

	it('ram/page-discarded: a page that postcopy dropped', async () => {
		const data = await stream({
			devices: (w) => {
				w.ramDiscard('pc.ram', [{ start: 0n, length: BigInt(PAGE_SIZE) }]);
				SOUND.devices(w);
			},
		});
		expect(await rulesOf(data)).toEqual(['ram/page-discarded']);
	});

	const sealed = (regions: { gfnStart: number; gfnEnd: number }[], header = 52, terminator = 2): Promise<Uint8Array> =>
		stream({
			part: (w) => {
				w.encryptedPage('pc.ram', 0, new Uint8Array(header), page(1), TOY_PREFIX);
				w.zeroPage('pc.ram', PAGE_SIZE, 0);
				w.sharedRegions('pc.ram', 0, regions, terminator);
			},
		});

	it.each([
		['status/range', [{ gfnStart: 1, gfnEnd: 1 }]],
		['status/outside', [{ gfnStart: 1, gfnEnd: 0x7fffffff }]],
		[
			'status/order',
			[
				{ gfnStart: 4, gfnEnd: 5 },
				{ gfnStart: 1, gfnEnd: 2 },
			],
		],
		['status/contradiction', [{ gfnStart: 0, gfnEnd: 1 }]],
	] as const)('%s is tripped by regions', async (rule, regions) => {
		expect(await rulesOf(await sealed([...regions]), { dialect: 'sev-v4' })).toEqual([rule]);
	});

	it('sealed/header, status/terminator and status/none', async () => {
		const options = { dialect: 'sev-v4' } as const;
		expect(await rulesOf(await sealed([], 48), options)).toEqual(['sealed/header']);
		expect(await rulesOf(await sealed([], 52, 7), options)).toEqual(['status/terminator']);
		const none = await stream({
			part: (w) => {
				w.encryptedPage('pc.ram', 0, new Uint8Array(52), page(1), TOY_PREFIX);
				w.zeroPage('pc.ram', PAGE_SIZE, 0);
			},
		});
		expect(await rulesOf(none, options)).toEqual(['status/none']);
	});

	it('multifd rules: a channel missing, given twice, or cut', async () => {
		const image = await opened(await contentStream(randomContent(4, [300])));
		const { inputs } = await rewritten(image, { encoding: 'multifd', partBytes: 5000 });
		const [main, first, second] = inputs;
		if (main === undefined || first === undefined || second === undefined) throw new Error('three inputs');
		expect((await verifyStream(inputs)).findings).toEqual([]);
		const rules = async (list: typeof inputs): Promise<string[]> =>
			(await verifyStream(list)).findings.map(({ rule }) => rule);
		expect(await rules([main, second])).toEqual(
			expect.arrayContaining(['multifd/channel', 'multifd/packets', 'ram/page-missing']),
		);
		expect(await rules([main, first, first])).toContain('multifd/channel');
		const bytes = first.source as Uint8Array;
		expect(await rules([main, { source: bytes.subarray(0, -1344) }, second])).toEqual(
			expect.arrayContaining(['multifd/sync', 'multifd/packets']),
		);
		expect(await rules([main, { source: bytes.subarray(0, -100) }, second])).toEqual(['codec/truncated']);
		expect(await rules([first])).toEqual(['input/input']);
	});
});

describe('a fault of syntax', () => {
	it.each([
		['stream/record', { part: (w: StreamWriter) => w.encodedPage('zlib', 'pc.ram', 0, zlibOfJunk) }],
		[
			'stream/record',
			{
				part: (w: StreamWriter) => {
					SOUND.part(w);
					w.encodedPage('xbzrle', 'pc.ram', 0, Uint8Array.of(5, 0));
				},
			},
		],
		['stream/block', { part: (w: StreamWriter) => w.zeroPage('nix', 0, 0) }],
		['stream/offset', { part: (w: StreamWriter) => w.zeroPage('pc.ram', 2 * PAGE_SIZE, 0) }],
		['stream/truncated', { tail: () => {} }],
	] as const)('is %s, with its place, and ends the check', async (rule, parts) => {
		const { findings, complete } = await verifyStream(await stream(parts), { dialect: 'qemu-7.2' });
		expect(findings).toMatchObject([{ rule, severity: 'error' }]);
		expect(findings[0]?.offset).toBeGreaterThan(20);
		expect(findings[0]?.text).not.toMatch(/^offset/);
		expect(complete).toBe(false);
	});

	it('has the words of QEMU 7.2 when asked for', async () => {
		const as = { as: 'qemu-7.2' } as const;
		const flags = await verifyStream(await contentStream(randomContent(1), true), as);
		expect(flags.findings[0]).toMatchObject({
			rule: 'stream/record',
			section: 'ram',
			qemu: ['Unknown combination of migration flags: 0x200', 'error while loading state section id 2(ram)'],
			strerror: 'Invalid argument',
		});
		const beyond = await verifyStream(await stream({ part: (w) => w.zeroPage('pc.ram', 2 * PAGE_SIZE, 0) }), as);
		expect(beyond.findings[0]?.qemu).toEqual([
			'Illegal RAM offset 2000',
			'error while loading state section id 2(ram)',
		]);
		const blocks = [{ idstr: 'pc.ram', usedLength: 4 * PAGE_SIZE }];
		const other = await verifyStream(await stream({}), { ...as, target: { blocks } });
		expect(other.findings[0]?.qemu?.[0]).toBe('Size mismatch: pc.ram: 0x2000 != 0x4000: Invalid argument');
		const machine = await verifyStream(await stream({}), { ...as, target: { machineType: 'none' } });
		expect(machine.findings[0]).toMatchObject({
			rule: 'stream/configuration',
			qemu: ["Machine type received is 'pc-i440fx-7.2' and local is 'none'"],
		});
	});
});

it('finds nothing wrong with what QEMU 7.2 wrote of a PC', async () => {
	const data = readFileSync(new URL('../../../../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url));
	expect((await verifyStream(data)).findings).toEqual([]);
	expect((await verifyStream(data, { as: 'qemu-7.2' })).findings).toEqual([]);
});
