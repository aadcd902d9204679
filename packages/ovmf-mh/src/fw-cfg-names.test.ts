import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { HANDLER_ITEMS, handlerSettings, parsePcdBoolean } from './fw-cfg-names.js';

const text = (s: string) => Uint8Array.from(s, (c) => c.charCodeAt(0));
const YES = ['true', 'yes', 'y', 'enable', 'enabled', '1'];
const NO = ['false', 'no', 'n', 'disable', 'disabled', '0'];

describe('parsePcdBoolean', () => {
	it.each([...YES.map((w) => [w, true] as const), ...NO.map((w) => [w, false] as const)])(
		'reads %s as %s',
		(word, value) => {
			for (const end of ['', '\n', '\r\n', '\0', '\n\0', '\r\n\0']) {
				for (const form of [word, word.toUpperCase(), word.charAt(0).toUpperCase() + word.slice(1)]) {
					const file = text(form + end);
					expect([form, end, parsePcdBoolean(file)]).toEqual([form, end, value]);
				}
			}
		},
	);

	it.each([
		'',
		' ',
		'2',
		'01',
		'on',
		'off',
		'true ',
		' true',
		'1\n\n',
		'1\r',
		'1\r\r\n',
		't',
		'tru',
		'toString',
		'\n',
		'\0',
	])('takes %j for nothing', (s) => {
		expect(parsePcdBoolean(text(s))).toBeUndefined();
	});

	it('takes 11 bytes with a final NUL, 10 without', () => {
		expect(parsePcdBoolean(text('disabled\r\n'))).toBe(false);
		expect(parsePcdBoolean(text('disabled\r\n\0'))).toBe(false);
		// A C string ends at its first NUL; what counts is the length of the file.
		expect(parsePcdBoolean(text('1\0........\0'))).toBe(true);
		expect(parsePcdBoolean(text('1\0.........'))).toBeUndefined();
		expect(parsePcdBoolean(text('1\0........'))).toBe(true);
		expect(parsePcdBoolean(text('1\0.........\0'))).toBeUndefined();
	});

	test.prop([fc.uint8Array({ maxLength: 16 })])('knows no other words', (file) => {
		const value = parsePcdBoolean(file);
		if (value === undefined) return;
		const word = String.fromCharCode(...file)
			.toLowerCase()
			.split('\0', 1)[0]
			?.replace(/\r?\n$/, '');
		expect(value ? YES : NO).toContain(word);
	});
});

describe('handlerSettings', () => {
	const settings = (files: Record<string, string>) =>
		handlerSettings((name) => {
			const file = files[`${name}`];
			return file === undefined ? undefined : text(file);
		});
	const OVMF_START = 'opt/ovmf/PcdStartConfidentialMigrationHandler';
	const OVMF_TARGET = 'opt/ovmf/PcdIsConfidentialMigrationTarget';
	const DOC_START = 'opt/ovmf/PcdSevIsMigrationHelper';
	const DOC_TARGET = 'opt/ovmf/PcdSevIsMigrationTarget';

	it('knows the names of all three documents', () => {
		expect(HANDLER_ITEMS.map(({ name }) => name)).toEqual([
			OVMF_START,
			DOC_START,
			'opt/ovmf/PcdSevIsMigrationHandler',
			OVMF_TARGET,
			DOC_TARGET,
		]);
	});

	it('is no and no by default', () => {
		expect(settings({})).toEqual({ start: false, target: false });
	});

	it('does what QEMU’s document types: string=0 for the helper, string=1 for the target', () => {
		expect(settings({ [DOC_START]: '0' })).toEqual({ start: true, target: false });
		expect(settings({ [DOC_START]: '0', [DOC_TARGET]: '1' })).toEqual({ start: true, target: true });
	});

	it('does what OVMF’s patches read', () => {
		expect(settings({ [OVMF_START]: 'yes\n', [OVMF_TARGET]: 'ENABLED' })).toEqual({ start: true, target: true });
		expect(settings({ [OVMF_START]: '0', [OVMF_TARGET]: 'no' })).toEqual({ start: false, target: false });
		expect(settings({ 'opt/ovmf/PcdSevIsMigrationHandler': '1' })).toEqual({ start: true, target: false });
	});

	it('lets OVMF’s own name decide, unless it says nothing', () => {
		expect(settings({ [OVMF_START]: 'no', [DOC_START]: '0' }).start).toBe(false);
		expect(settings({ [OVMF_START]: 'perhaps', [DOC_START]: '0' }).start).toBe(true);
		expect(settings({ [OVMF_TARGET]: '', [DOC_TARGET]: '1' }).target).toBe(true);
	});
});
