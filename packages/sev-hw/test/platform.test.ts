import { spa, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { COMMANDS } from '../src/abi/commands.js';
import { Policy } from '../src/abi/policy.js';
import { splitAmdCertificates } from '../src/certificates/amd-certificate.js';
import { verifyOwnerChain, verifyPlatformChain } from '../src/certificates/chain.js';
import { readSevCertificate } from '../src/certificates/sev-certificate.js';
import { chipIdentity } from '../src/fake-amd/chip.js';
import { expectRefusal, FORBIDDEN } from './refusal.js';
import { certificatesOf, createRig, GuestState, guestIn, initialised, MIB, provider } from './rig.js';

const TMR = { flags: 1, tmrPaddr: 0x200000n, tmrLength: 0x100000 };

describe('INIT', () => {
	it.each([
		['a flag that is not ES', { flags: 2 }, 'INVALID_CONFIG'],
		['a reserved byte that is not zero', { reserved: Uint8Array.of(0, 0, 0, 0, 0, 1) }, 'INVALID_CONFIG'],
		['a TMR that is not aligned to 1 MiB', { ...TMR, tmrPaddr: 0x201000n }, 'INVALID_ADDRESS'],
		['a TMR of another length than 1 MiB', { ...TMR, tmrLength: 0x200000 }, 'INVALID_LENGTH'],
		['a TMR behind DRAM', { ...TMR, tmrPaddr: 0x400000n }, 'INVALID_ADDRESS'],
		['a TMR over ASEG', { ...TMR, tmrPaddr: 0n }, 'INVALID_ADDRESS'],
		['TMR alignment before its length', { ...TMR, tmrPaddr: 1n, tmrLength: 1 }, 'INVALID_ADDRESS'],
		['the flags before the TMR', { ...TMR, flags: 3, tmrPaddr: 1n }, 'INVALID_CONFIG'],
	])('refuses %s', (_, fields, status) => expectRefusal(createRig(), 'INIT', fields, status));

	it('ignores the TMR fields without the ES flag', () => {
		expect(createRig().command('INIT', { tmrPaddr: 1n, tmrLength: 1 }).status).toBe('SUCCESS');
	});

	it('takes the ES flag, reports it, and keeps every command out of the TMR', () => {
		const rig = createRig();
		rig.must('INIT', TMR);
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 1, config: 1 });
		expectRefusal(rig, 'GET_ID', { idPaddr: 0x2fffffn, idLen: 64 }, 'INVALID_ADDRESS');
		rig.machine.wbinvd();
		rig.must('DF_FLUSH');
		expectRefusal(rig, 'GET_ID', { idPaddr: 0x2fffffn, idLen: 64 }, 'INVALID_ADDRESS');
		expect(rig.command('GET_ID', { idPaddr: 0x300000n, idLen: 64 }).status).toBe('SUCCESS');
		rig.must('SHUTDOWN');
		expect(rig.command('GET_ID', { idPaddr: 0x2fffffn, idLen: 64 }).status).toBe('SUCCESS');
	});

	it('does not destroy guests when it comes at a wrong moment', () => {
		const rig = initialised();
		guestIn(rig, GuestState.RUNNING);
		expectRefusal(rig, 'INIT', {}, 'INVALID_PLATFORM_STATE');
	});
});

describe('PDH_CERT_EXPORT', () => {
	const sound = { pdhPaddr: 0x200000n, pdhLen: 2084, certsPaddr: 0x210000n, certsLen: 6252 };
	const lengths = { pdhLen: 2084, certsLen: 6252 };

	it.each([
		['a PDH buffer that is too short', { pdhLen: 2083 }],
		['a chain buffer that is too short', { certsLen: 6251 }],
		['lengths of zero', { pdhLen: 0, certsLen: 0 }],
		['short lengths before bad addresses', { pdhLen: 0, pdhPaddr: 0xa0000n }],
	])('answers %s with both lengths', (_, change) => {
		expectRefusal(initialised(), 'PDH_CERT_EXPORT', { ...sound, ...change }, 'INVALID_LENGTH', lengths);
	});

	it.each(FORBIDDEN)('refuses addresses %s', (_, address) => {
		const rig = initialised();
		expectRefusal(rig, 'PDH_CERT_EXPORT', { ...sound, pdhPaddr: address }, 'INVALID_ADDRESS');
		expectRefusal(rig, 'PDH_CERT_EXPORT', { ...sound, certsPaddr: address }, 'INVALID_ADDRESS');
	});

	it('exports a chain that verifies once the key server has signed the CEK', () => {
		const { pdh, platform, exported, amd } = certificatesOf(initialised());
		const part = (chain: Uint8Array, i: number) => chain.subarray(2084 * i, 2084 * (i + 1));
		const [pek, oca, cek] = [part(platform, 0), part(platform, 1), part(platform, 2)];
		const roots = splitAmdCertificates(amd);
		if (roots === undefined) throw new Error('roots');
		expect(verifyPlatformChain(provider, { pdh, pek, cek, ...roots })).toEqual({ status: 0 });
		expect(verifyOwnerChain(provider, { pdh, pek, oca })).toEqual({ status: 0 });
		expect(readSevCertificate(part(exported, 2)).slots.map((s) => s.usage)).toEqual([0x1000, 0x1000]);
		expect(readSevCertificate(pek).slots.map((s) => s.usage)).toEqual([0x1001, 0x1004]);
		expect(readSevCertificate(pdh)).toMatchObject({ apiMajor: 0, apiMinor: 24, usage: 0x1003, algo: 3 });
	});

	it('takes addresses with the C-bit', () => {
		const rig = initialised();
		rig.must('PDH_CERT_EXPORT', { ...sound, pdhPaddr: sound.pdhPaddr | (1n << 51n) });
		expect(readSevCertificate(rig.at(sound.pdhPaddr, 2084)).usage).toBe(0x1003);
	});
});

describe('PDH_GEN', () => {
	it('makes another PDH under the same PEK and stores it', () => {
		const rig = initialised();
		const before = certificatesOf(rig);
		rig.must('PDH_GEN');
		const after = certificatesOf(rig);
		expect(after.pdh).not.toEqual(before.pdh);
		expect(after.exported).toEqual(before.exported);
		rig.must('SHUTDOWN');
		rig.must('INIT');
		expect(certificatesOf(rig).pdh).toEqual(after.pdh);
	});
});

describe('GET_ID', () => {
	it('answers a short buffer with the length', () => {
		expectRefusal(createRig(), 'GET_ID', { idPaddr: 0xa0000n, idLen: 63 }, 'INVALID_LENGTH', { idLen: 64 });
	});
	it.each(FORBIDDEN)('refuses an address %s', (_, idPaddr) => {
		expectRefusal(createRig(), 'GET_ID', { idPaddr, idLen: 64 }, 'INVALID_ADDRESS');
	});
	it("answers the chip's id, in any platform state", () => {
		const rig = createRig({ chipSeed: 'a chip' });
		expect(rig.must('GET_ID', { idPaddr: 0x200000n, idLen: 128 })).toMatchObject({ idLen: 64 });
		expect(rig.at(0x200000, 64)).toEqual(chipIdentity(provider, 'a chip').id);
	});
	it('answers two ids on two sockets, if asked for exactly 128 bytes', () => {
		const rig = createRig({ chipSeed: 'a chip', sockets: 2 });
		const first = chipIdentity(provider, 'a chip').id;
		expect(rig.must('GET_ID', { idPaddr: 0x200000n, idLen: 127 })).toMatchObject({ idLen: 64 });
		expect(rig.must('GET_ID', { idPaddr: 0x200000n, idLen: 129 })).toMatchObject({ idLen: 64 });
		expect(rig.at(0x200000, 128)).toEqual(Uint8Array.from([...first, ...new Uint8Array(64)]));
		expect(rig.must('GET_ID', { idPaddr: 0x200000n, idLen: 128 })).toMatchObject({ idLen: 128 });
		const second = chipIdentity(provider, 'a chip, socket 2').id;
		expect(rig.at(0x200000, 129)).toEqual(Uint8Array.of(...first, ...second, 0));
		expectRefusal(rig, 'GET_ID', { idPaddr: 0x3fffc0n, idLen: 128 }, 'INVALID_ADDRESS');
		expectRefusal(rig, 'GET_ID', { idPaddr: 0x200000n, idLen: 63 }, 'INVALID_LENGTH', { idLen: 64 });
	});
});

describe('PLATFORM_STATUS', () => {
	it('says version, state and guest count, and writes every byte of its buffer', () => {
		const rig = createRig({ version: { major: 1, minor: 55, build: 25 } });
		rig.machine.dram.fill(0xff, 0xf0000, 0xf0010);
		expect(rig.machine.psp.submit(COMMANDS.PLATFORM_STATUS.id, spa(0xf0000))).toBe(0);
		expect(toHex(rig.at(0xf0000, 13))).toBe('013700000000001900000000ff');
		rig.must('INIT');
		rig.must('LAUNCH_START');
		rig.must('LAUNCH_START');
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 2, guestCount: 2, owner: 0, config: 0 });
	});
	it('is reached at a buffer address with the C-bit, and refused at a forbidden one', () => {
		const rig = createRig();
		const { id } = COMMANDS.PLATFORM_STATUS;
		expect(rig.machine.psp.submit(id, spa(0x200000 + 2 ** 51))).toBe(0);
		for (const [, address] of FORBIDDEN.filter(([, a]) => a < 1n << 52n && a % 0x1000n === 0n)) {
			expect(rig.machine.psp.submit(id, spa(Number(address)))).toBe(9);
		}
	});
	it('knows C-bit 47 on Naples, where bit 51 is no address bit', () => {
		const rig = createRig({ generation: 'naples' });
		const { id } = COMMANDS.PLATFORM_STATUS;
		expect(rig.machine.psp.submit(id, spa(0x200000 + 2 ** 47))).toBe(0);
		expect(rig.machine.psp.submit(id, spa(0x200000 + 2 ** 51))).toBe(9);
	});
});

describe('DF_FLUSH', () => {
	it('wants a WBINVD since INIT, and since the last guest that may have run', () => {
		const rig = createRig();
		rig.machine.wbinvd();
		rig.must('INIT');
		expectRefusal(rig, 'DF_FLUSH', {}, 'WBINVD_REQUIRED');
		rig.machine.wbinvd();
		rig.must('DF_FLUSH');
		const { handle } = guestIn(rig, GuestState.RUNNING);
		rig.must('DF_FLUSH');
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'DF_FLUSH', {}, 'WBINVD_REQUIRED');
	});
	it('needs no WBINVD after a guest that was never allowed to run', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.LSECRET);
		rig.must('DEACTIVATE', { handle });
		rig.must('DF_FLUSH');
		rig.must('ACTIVATE', { handle, asid: 100 });
	});
});

describe('SHUTDOWN', () => {
	it('destroys guests that are bound, with their keys', () => {
		const rig = initialised();
		guestIn(rig, GuestState.SUPDATE, Policy.NOKS);
		const vek = [...rig.platform.guests.values()][0]?.vek;
		rig.must('SHUTDOWN');
		rig.must('SHUTDOWN');
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 0, guestCount: 0 });
		expect(vek).toEqual(new Uint8Array(16));
		expect(rig.command('GUEST_STATUS', { handle: 1 }).status).toBe('INVALID_PLATFORM_STATE');
	});
});

describe('a machine', () => {
	it.each([0, MIB - 4096, MIB + 1, 1.5 * MIB + 0.5])('cannot have %d bytes of DRAM', (dramBytes) => {
		expect(() => createRig({ dramBytes })).toThrow(RangeError);
	});
	it('cannot have a firmware version that does not fit a certificate', () => {
		expect(() => createRig({ version: { major: 0, minor: 256, build: 0 } })).toThrow(
			'version.minor: expected a byte, got 256',
		);
	});
});
