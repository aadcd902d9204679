import { afterEach, describe, expect, it, vi } from 'vitest';
import { checkDemoOptions } from './options.js';
import { type DemoResult, openReport } from './report.js';
import { travelWords } from './travel.js';

const GIVEN = {
	...{ mode: 'psp', memory: '64M', vcpus: '2', workload: 'ab', hops: '1', policy: '0x20', seed: '1' },
	...{ bandwidth: '0', downtime: '300' },
};
const options = (json: boolean) => checkDemoOptions({ ...GIVEN, json });

const RESULT: DemoResult = {
	...{ mode: 'psp', workload: 'ab', memory: 64 * 2 ** 20, vcpus: 2, policy: 0x20, 'launch-digest': 'ab'.repeat(32) },
	hops: [
		{
			from: 'source',
			to: 'target',
			info: {
				status: 'completed',
				'total-time': 1234,
				downtime: 56,
				ram: {
					...{ transferred: 70 * 2 ** 20, remaining: 0, total: 64 * 2 ** 20, duplicate: 100, normal: 16_900 },
					...{ 'normal-bytes': 16_900 * 4096, 'dirty-pages-rate': 0, mbps: 500, 'dirty-sync-count': 4 },
					...{ 'page-size': 4096, 'pages-per-second': 0, 'precopy-bytes': 0, 'downtime-bytes': 0, skipped: 0 },
					...{ 'postcopy-requests': 0, 'multifd-bytes': 0, 'postcopy-bytes': 0, 'dirty-sync-missed-zero-copy': 0 },
				},
			},
			stepsBefore: [10, 20],
			stepsAfter: [30, 40],
			peaks: { source: 1, target: 2 },
		},
	],
	checks: [
		{ check: 'memory is equal', ok: true, detail: 'sha256 00' },
		{ check: 'registers are equal', ok: false, detail: '' },
	],
	verified: false,
};

/** What a report writes for `use`. */
function written(json: boolean, use: (report: ReturnType<typeof openReport>) => void): string {
	let text = '';
	vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
		text += String(chunk);
		return true;
	});
	use(openReport(options(json)));
	vi.restoreAllMocks();
	return text;
}
afterEach(() => {
	vi.restoreAllMocks();
});

describe('the report of a demonstration', () => {
	it('in text shows each hop as a table and each check as a line', () => {
		const text = written(false, (report) => {
			report.step('source: ready');
			report.progress({ status: 'active' });
			report.result(RESULT);
		});
		expect(text).toBe(`· source: ready

  source → target
    passes         4
    pages sent     17000 (100 zero), of 16384 in the guest
    bytes sent     70 MiB
    total time     1.23 s, 54 MiB of guest RAM a second
    downtime       56 ms
    steps of work  10 + 20 when it began, 30 + 40 on arrival

✓ memory is equal  sha256 00
✗ registers are equal
NOT verified
`);
	});

	it('in text says what the helpers did, and what travelled how', () => {
		const [hop] = RESULT.hops;
		if (!hop) throw new Error('expected a hop');
		const info = { ...hop.info, 'x-helper': { helpers: 3, records: 283, pages: 16_800, 'zero-pages': 9000 } };
		const travelled = travelWords(checkDemoOptions({ ...GIVEN, mode: 'mh' }));
		const text = written(false, (report) =>
			report.result({ ...RESULT, hops: [{ ...hop, info }], travelled, checks: [] }),
		);
		expect(text).toContain('\n    helpers        3\n    by helpers     16800 pages (9000 zero) in 283 records\n');
		expect(text).toMatch(/^ {2}what travelled how\n {4}private pages {7}sealed by the guest's own helpers/m);
	});

	it.each([
		['psp', {}, 'sealed by the source'],
		['mh', {}, "sealed by the guest's own helpers"],
		['mh', { profile: 'rfc-2021', insecurePlaintext: true }, 'AS THEY ARE'],
		['plain', {}, 'the guest is not encrypted'],
	])('in words for mode %s %j', (mode, more, how) => {
		expect(travelWords(checkDemoOptions({ ...GIVEN, mode, ...more }))[0]?.how).toContain(how);
	});

	it('in text says how to hand a stream to QEMU', () => {
		const result = {
			...RESULT,
			hops: [],
			checks: [],
			verified: true,
			output: '/s',
			'accept-with': 'qemu-system-x86_64 -S',
		};
		expect(written(false, (report) => report.result(result))).toBe(
			'\nQEMU accepts it with:\n  qemu-system-x86_64 -S\nverified\n',
		);
	});

	it('in JSON is one document, and nothing before it', () => {
		const text = written(true, (report) => {
			report.step('source: ready');
			report.progress({ status: 'active' });
			report.result(RESULT);
		});
		expect(text.endsWith('}\n')).toBe(true);
		expect(JSON.parse(text)).toEqual(RESULT);
	});
});
