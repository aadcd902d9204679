/**
 * Every image of Debian's package ovmf, against values that were read from version 2022.11-6+deb12u2 by hand; those of another
 * version are read all the same, and their facts are held against the file's own bytes.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
	discoverHelper,
	findMigrationBlock,
	readFirmwareBlocks,
	readResetVector,
	readVolumes,
	TableGuid,
} from '@cvm/ovmf-mh';
import { describe, expect, it } from 'vitest';
import { cvm, run } from './programs.js';

const FOLDER = '/usr/share/OVMF';
const KNOWN_VERSION = '2022.11-6+deb12u2';

const installed = (): string => {
	try {
		return /^Version: (.*)$/m.exec(run('dpkg', ['-s', 'ovmf']))?.[1] ?? 'none';
	} catch {
		return 'none';
	}
};
const isKnown = installed() === KNOWN_VERSION;

interface Known {
	readonly size: number;
	readonly kind: 'x64' | 'ia32' | 'erased';
	/** 0: no table. */
	readonly total: number;
	readonly reset?: number;
	readonly metadata?: true;
}
const CODE_2M: Known = { size: 0x1e0000, kind: 'x64', total: 0x88, reset: 0x80b004, metadata: true };
const CODE_4M: Known = { size: 0x37c000, kind: 'ia32', total: 0x5c, reset: 0x808004 };
const VARS = (size: number): Known => ({ size, kind: 'erased', total: 0 });

/** Links are images of their own to whoever names them. */
const IMAGES: Readonly<Record<string, Known>> = {
	[join('/usr/share/ovmf', 'OVMF.fd')]: { ...CODE_2M, size: 0x200000 },
	[join(FOLDER, 'OVMF_CODE.fd')]: CODE_2M,
	[join(FOLDER, 'OVMF_CODE.secboot.fd')]: CODE_2M,
	[join(FOLDER, 'OVMF_CODE.ms.fd')]: CODE_2M,
	[join(FOLDER, 'OVMF_CODE_4M.fd')]: CODE_4M,
	[join(FOLDER, 'OVMF_CODE_4M.secboot.fd')]: CODE_4M,
	[join(FOLDER, 'OVMF_CODE_4M.ms.fd')]: CODE_4M,
	[join(FOLDER, 'OVMF_CODE_4M.snakeoil.fd')]: CODE_4M,
	[join(FOLDER, 'OVMF_VARS.fd')]: VARS(0x20000),
	[join(FOLDER, 'OVMF_VARS.ms.fd')]: VARS(0x20000),
	[join(FOLDER, 'OVMF_VARS_4M.fd')]: VARS(0x84000),
	[join(FOLDER, 'OVMF_VARS_4M.ms.fd')]: VARS(0x84000),
	[join(FOLDER, 'OVMF_VARS_4M.snakeoil.fd')]: VARS(0x84000),
};
const COMMON = [TableGuid.resetBlock, TableGuid.secretBlock, TableGuid.hashBlock];

describe.each(Object.entries(IMAGES))('%s', (path, known) => {
	const image = (skip: (why: string) => void) => {
		if (!existsSync(path)) skip(`${path} is not in this version of the package`);
		return new Uint8Array(readFileSync(path));
	};

	it('parses without a problem, and says what its own bytes say', (context) => {
		const bytes = image((why) => context.skip(why));
		const { table, problems, ...blocks } = readFirmwareBlocks(bytes);
		expect(problems).toEqual([]);
		const footer = Buffer.from(bytes.subarray(-48, -32)).toString('hex');
		expect(table.present).toBe(footer === 'de82b596b21ff745baeaa366c55a082d');
		expect(table.totalLength).toBe(table.present ? Buffer.from(bytes.subarray(-50, -48)).readUInt16LE() : 0);
		if (!table.present) return;
		// The first visited stands last: its data is right before its own length.
		const word = Buffer.from(bytes).readUInt32LE(bytes.length - 0x32 - 22);
		expect(blocks.resetBlock?.address).toBe(word);
		expect(table.entries.reduce((sum, { length }) => sum + length, 18)).toBe(table.totalLength);
	});

	it.runIf(isKnown)(`has the values of ${KNOWN_VERSION}`, (context) => {
		const bytes = image((why) => context.skip(why));
		const { table, problems, ...blocks } = readFirmwareBlocks(bytes);
		expect(bytes).toHaveLength(known.size);
		expect(readResetVector(bytes)?.kind).toBe(known.kind);
		expect(table.totalLength).toBe(known.total);
		expect(findMigrationBlock(bytes)).toEqual({ form: 'absent', hidden: [] });
		expect(discoverHelper(bytes)).toMatchObject({ entry: 0x823000, entryFrom: 'built-in', layoutFrom: 'built-in' });
		if (known.total === 0) {
			expect(bytes.subarray(-48).every((byte) => byte === 0xff)).toBe(true);
			expect({ entries: table.entries, blocks }).toEqual({ entries: [], blocks: {} });
			expect(readVolumes(bytes)).toMatchObject([
				{ offset: 0, length: known.size, kind: 'variables', checksumOk: true },
			]);
			return;
		}
		expect(table.entries.map(({ guid }) => guid)).toEqual([
			...COMMON,
			...(known.metadata ? [TableGuid.sevMetadata, TableGuid.tdxMetadata] : []),
		]);
		expect(blocks.resetBlock?.address).toBe(known.reset);
		expect(blocks.secretBlock).toEqual({ base: 0, size: 0 });
		expect(blocks.hashBlock).toEqual({ base: 0, size: 0 });
		expect(blocks.sevSections).toEqual(
			known.metadata && [
				{ gpa: 0x800000, size: 0x9000, type: 1 },
				{ gpa: 0x80a000, size: 0x3000, type: 1 },
				{ gpa: 0x80d000, size: 0x1000, type: 2 },
				{ gpa: 0x80e000, size: 0x1000, type: 3 },
				{ gpa: 0x80f000, size: 0x11000, type: 1 },
			],
		);
		expect(blocks.tdxSections?.length).toBe(known.metadata ? 6 : undefined);
		const offsets = table.entries.slice(3).map(({ data }) => Buffer.from(data).readUInt32LE());
		expect(offsets).toEqual(known.metadata ? [0x52c, 0x840] : []);
		// Volumes leave nothing of the file out.
		expect(readVolumes(bytes).reduce((sum, { length }) => sum + length, 0)).toBe(known.size);
		expect(readVolumes(bytes).every(({ checksumOk }) => checksumOk)).toBe(true);
	});
});

describe('cvm ovmf inspect', () => {
	it('reads every image of the package, with the digest that OpenSSL computes', async () => {
		const paths = Object.keys(IMAGES).filter((path) => existsSync(path));
		expect(paths).not.toEqual([]);
		for (const path of paths) {
			const { code, stdout, stderr } = await cvm('ovmf', 'inspect', path, '--json');
			expect({ path, code, stderr }).toEqual({ path, code: 0, stderr: '' });
			const told = JSON.parse(stdout);
			expect(told.launch['launch-digest']).toBe(run('openssl', ['dgst', '-sha256', '-r', path]).slice(0, 64));
			expect(told['variable-store']).toBe(basename(path).startsWith('OVMF_VARS'));
		}
	});
});
