import { COMMANDS, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { SevUserCommand, sevUserDataGetId2, sevUserDataPekCertImport, sevUserDataPekCsr } from '../src/ccp/index.js';
import { AT, CERT, CHAIN, DONE, FAULT, INVALID, O_RDONLY, REFUSED, rig, UNTOUCHED } from './ccp-rig.js';

describe('PEK_CSR', () => {
	const asked = ({ user }: ReturnType<typeof rig>, address: bigint, length: number) =>
		user.put(AT.data, sevUserDataPekCsr.encode({ address, length }));
	const answered = ({ user }: ReturnType<typeof rig>) =>
		sevUserDataPekCsr.decode(user.at(AT.data, sevUserDataPekCsr.size));

	it('wants write access', async () => {
		expect(await rig().issue(SevUserCommand.PEK_CSR, { flags: O_RDONLY })).toEqual(REFUSED);
	});

	it('faults on a structure that cannot be read, before INIT', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		expect(await issue(SevUserCommand.PEK_CSR, { data: AT.nowhere })).toEqual(FAULT);
		expect(ran).toEqual([]);
	});

	it('faults on a length above 16 KiB, before INIT', async () => {
		const made = rig({ initOnProbe: false });
		asked(made, AT.first, 0x4001);
		expect(await made.issue(SevUserCommand.PEK_CSR)).toEqual(FAULT);
		expect(made.ran).toEqual([]);
	});

	it.each([
		['no address', 0n, 0x4001],
		['no length', AT.first, 0],
		['too little room', AT.first, CERT - 1],
	])('answers %s with the length that it wants', async (_, address, length) => {
		const made = rig();
		asked(made, address, length);
		expect(await made.issue(SevUserCommand.PEK_CSR)).toEqual({ ret: -5, error: Status.INVALID_LENGTH });
		expect(answered(made)).toEqual({ address, length: CERT });
		expect(made.user.at(AT.first, CERT)).toEqual(new Uint8Array(CERT));
	});

	it.each([CERT, 0x4000])('writes the certificate and its length into %i bytes', async (room) => {
		const made = rig({ initOnProbe: false });
		asked(made, AT.first, room);
		expect(await made.issue(SevUserCommand.PEK_CSR)).toEqual(DONE);
		expect(answered(made).length).toBe(CERT);
		const csr = made.user.at(AT.first, CERT + 1);
		expect(csr.slice(0, 12)).toEqual(Uint8Array.of(1, 0, 0, 0, 0, 24, 0, 0, 2, 0x10, 0, 0));
		expect(csr[CERT]).toBe(0);
	});

	it('faults when the length cannot be written, and then copies nothing', async () => {
		const made = rig();
		asked(made, AT.first, CERT);
		made.user.protect(AT.data);
		expect(await made.issue(SevUserCommand.PEK_CSR)).toEqual({ ret: -14, error: 0 });
		expect(made.user.at(AT.first, CERT)).toEqual(new Uint8Array(CERT));
	});

	it('faults when the certificate cannot be written', async () => {
		const made = rig();
		asked(made, AT.nowhere, CERT);
		expect(await made.issue(SevUserCommand.PEK_CSR)).toEqual({ ret: -14, error: 0 });
		expect(answered(made).length).toBe(CERT);
	});
});

describe('PDH_CERT_EXPORT', () => {
	it('needs no write access to a platform that is up', async () => {
		const { issue, wantExport, user, exported } = rig();
		wantExport();
		expect(await issue(SevUserCommand.PDH_CERT_EXPORT, { flags: O_RDONLY })).toEqual(DONE);
		expect(exported()).toMatchObject({ pdhCertLen: CERT, certChainLen: CHAIN });
		expect(user.at(AT.first + 8n, 2)).toEqual(Uint8Array.of(0x03, 0x10));
		const usages = [0, 1, 2].map((i) => user.at(AT.second + BigInt(i * CERT + 8), 1)[0]);
		expect(usages).toEqual([2, 1, 4]);
	});

	it('wants it for one that is down', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		expect(await issue(SevUserCommand.PDH_CERT_EXPORT, { flags: O_RDONLY })).toEqual(REFUSED);
		expect(ran).toEqual([]);
	});

	it('initialises before it looks at the structure', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		expect(await issue(SevUserCommand.PDH_CERT_EXPORT, { data: AT.nowhere })).toEqual({ ret: -14, error: 0 });
		expect(ran).toEqual([COMMANDS.INIT.id, COMMANDS.DF_FLUSH.id]);
	});

	it('faults on a structure that cannot be read', async () => {
		expect(await rig().issue(SevUserCommand.PDH_CERT_EXPORT, { data: AT.nowhere })).toEqual(FAULT);
	});

	it.each([{ pdhCertLen: 0x4001 }, { certChainLen: 0x4001 }])('faults on %o', async (fields) => {
		const { issue, wantExport, ran } = rig();
		wantExport(fields);
		ran.length = 0;
		expect(await issue(SevUserCommand.PDH_CERT_EXPORT)).toEqual(FAULT);
		expect(ran).toEqual([]);
	});

	it.each([
		{ pdhCertAddress: 0n },
		{ pdhCertLen: 0, certChainLen: 0x4001 },
		{ certChainAddress: 0n },
		{ certChainLen: 0 },
		{ pdhCertLen: CERT - 1 },
		{ certChainLen: CHAIN - 1 },
	])('answers %o with both lengths', async (fields) => {
		const { issue, wantExport, exported, user } = rig();
		wantExport(fields);
		expect(await issue(SevUserCommand.PDH_CERT_EXPORT)).toEqual({ ret: -5, error: Status.INVALID_LENGTH });
		expect(exported()).toMatchObject({ pdhCertLen: CERT, certChainLen: CHAIN });
		expect(user.at(AT.first, CERT)).toEqual(new Uint8Array(CERT));
		expect(user.at(AT.second, CHAIN)).toEqual(new Uint8Array(CHAIN));
	});

	it.each([
		['the structure', { pdhCertAddress: AT.first }, AT.data],
		['the PDH', { pdhCertAddress: AT.first }, AT.first],
		['the chain', { certChainAddress: AT.second }, AT.second],
	])('faults when %s cannot be written', async (_, fields, at) => {
		const { issue, wantExport, user } = rig();
		wantExport(fields);
		user.protect(at);
		expect(await issue(SevUserCommand.PDH_CERT_EXPORT)).toEqual({ ret: -14, error: 0 });
	});
});

describe('PEK_CERT_IMPORT', () => {
	const offered = { pekCertAddress: AT.first, pekCertLen: CERT, ocaCertAddress: AT.second, ocaCertLen: CERT };
	const offer = ({ user }: ReturnType<typeof rig>, fields: Partial<typeof offered> = {}) =>
		user.put(AT.data, sevUserDataPekCertImport.encode({ ...offered, ...fields }));

	it('wants write access', async () => {
		expect(await rig().issue(SevUserCommand.PEK_CERT_IMPORT, { flags: O_RDONLY })).toEqual(REFUSED);
	});

	it('faults on a structure that cannot be read', async () => {
		expect(await rig().issue(SevUserCommand.PEK_CERT_IMPORT, { data: AT.nowhere })).toEqual(FAULT);
	});

	it.each([
		[{ pekCertAddress: 0n }, INVALID],
		[{ pekCertLen: 0 }, INVALID],
		[{ pekCertLen: 0x4001 }, INVALID],
		[{ pekCertAddress: AT.nowhere }, FAULT],
		[{ ocaCertAddress: 0n }, INVALID],
		[{ ocaCertLen: 0 }, INVALID],
		[{ ocaCertLen: 0x4001 }, INVALID],
		[{ ocaCertAddress: AT.nowhere }, FAULT],
	])('refuses %o before INIT', async (fields, expected) => {
		const made = rig({ initOnProbe: false });
		offer(made, fields);
		expect(await made.issue(SevUserCommand.PEK_CERT_IMPORT)).toEqual(expected);
		expect(made.ran).toEqual([]);
	});

	it('initialises, then lets the firmware judge lengths', async () => {
		const made = rig({ initOnProbe: false });
		offer(made, { pekCertLen: CERT - 1 });
		expect(await made.issue(SevUserCommand.PEK_CERT_IMPORT)).toEqual({ ret: -5, error: Status.INVALID_LENGTH });
		expect(made.ran).toEqual([COMMANDS.INIT.id, COMMANDS.DF_FLUSH.id, COMMANDS.PEK_CERT_IMPORT.id]);
	});
});

describe.each([
	['GET_ID', SevUserCommand.GET_ID],
	['GET_ID2', SevUserCommand.GET_ID2],
])('%s', (_, cmd) => {
	it('does not exist before version 0.16', async () => {
		const { issue, ran } = rig({ initOnProbe: false, version: { major: 0, minor: 15, build: 0 } });
		expect(await issue(cmd, { data: AT.nowhere })).toEqual({ ret: -524, error: UNTOUCHED });
		expect(ran).toEqual([]);
	});

	it.each([
		{ major: 0, minor: 16, build: 0 },
		{ major: 1, minor: 0, build: 0 },
	])('exists in %o', async (version) => {
		const { issue } = rig({ version });
		expect((await issue(cmd, { data: AT.nowhere })).ret).toBe(-14);
	});
});

describe('GET_ID', () => {
	it('needs neither write access nor INIT, and writes one id', async () => {
		const { issue, ran, user } = rig({ initOnProbe: false });
		expect(await issue(SevUserCommand.GET_ID, { flags: O_RDONLY })).toEqual(DONE);
		expect(ran).toEqual([COMMANDS.GET_ID.id]);
		expect(user.at(AT.data, 64)).not.toEqual(new Uint8Array(64));
		expect(user.at(AT.data + 64n, 64)).toEqual(new Uint8Array(64));
	});

	it('faults after the firmware answered', async () => {
		expect(await rig().issue(SevUserCommand.GET_ID, { data: AT.nowhere })).toEqual({ ret: -14, error: 0 });
	});

	it('writes nothing when the firmware refuses', async () => {
		const { issue, user } = rig({ answers: { [COMMANDS.GET_ID.id]: Status.HWERROR_PLATFORM } });
		expect(await issue(SevUserCommand.GET_ID)).toEqual({ ret: -5, error: Status.HWERROR_PLATFORM });
		expect(user.at(AT.data, 128)).toEqual(new Uint8Array(128));
	});
});

describe('GET_ID2', () => {
	const asked = ({ user }: ReturnType<typeof rig>, address: bigint, length: number) =>
		user.put(AT.data, sevUserDataGetId2.encode({ address, length }));
	const answered = ({ user }: ReturnType<typeof rig>) =>
		sevUserDataGetId2.decode(user.at(AT.data, sevUserDataGetId2.size));

	it('faults on a structure that cannot be read', async () => {
		expect(await rig().issue(SevUserCommand.GET_ID2, { data: AT.nowhere })).toEqual(FAULT);
	});

	it('needs neither write access nor INIT', async () => {
		const made = rig({ initOnProbe: false });
		asked(made, AT.first, 64);
		expect(await made.issue(SevUserCommand.GET_ID2, { flags: O_RDONLY })).toEqual(DONE);
		expect(made.ran).toEqual([COMMANDS.GET_ID.id]);
		expect(answered(made).length).toBe(64);
		expect(made.user.at(AT.first, 64)).not.toEqual(new Uint8Array(64));
	});

	it('takes more room than one id needs, up to what the kernel can allocate', async () => {
		const made = rig();
		asked(made, AT.first, 4 << 20);
		expect(await made.issue(SevUserCommand.GET_ID2)).toEqual(DONE);
		expect(answered(made).length).toBe(64);
		asked(made, AT.first, (4 << 20) + 1);
		expect(await made.issue(SevUserCommand.GET_ID2)).toEqual({ ret: -12, error: UNTOUCHED });
	});

	it.each([
		['no address', 0n, 64],
		['no length', AT.first, 0],
		['too little room', AT.first, 63],
	])('answers %s with the length that it wants', async (_, address, length) => {
		const made = rig();
		asked(made, address, length);
		expect(await made.issue(SevUserCommand.GET_ID2)).toEqual({ ret: -5, error: Status.INVALID_LENGTH });
		expect(answered(made)).toEqual({ address, length: 64 });
		expect(made.user.at(AT.first, 64)).toEqual(new Uint8Array(64));
	});

	it('faults when the length cannot be written, and then copies nothing', async () => {
		const made = rig();
		asked(made, AT.first, 64);
		made.user.protect(AT.data);
		expect(await made.issue(SevUserCommand.GET_ID2)).toEqual({ ret: -14, error: 0 });
		expect(made.user.at(AT.first, 64)).toEqual(new Uint8Array(64));
	});

	it('faults when the id cannot be written', async () => {
		const made = rig();
		asked(made, AT.nowhere, 64);
		expect(await made.issue(SevUserCommand.GET_ID2)).toEqual({ ret: -14, error: 0 });
	});
});
