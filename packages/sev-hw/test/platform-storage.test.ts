import { kdf } from '@cvm/crypto';
import { toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { verifyOwnerChain } from '../src/certificates/chain.js';
import { SEV_CERT_SIZE } from '../src/certificates/sev-certificate.js';
import { type Identity, wipeIdentity } from '../src/psp/identity.js';
import { expectRefusal } from './refusal.js';
import { certificatesOf, createRig, initialised, memoryStorage, provider, type Rig } from './rig.js';

const wornOut = () => {
	throw new Error('worn out');
};

/** The keys of a platform that was just initialised. */
function identityOf({ platform }: Rig): Identity {
	if (platform.identity === undefined) throw new Error('rig: expected keys, got none');
	return structuredClone(platform.identity);
}

/** What the firmware of the chip `c` would have sealed: magic ‖ IV ‖ AES-256-GCM, with the magic as additional data. */
function sealed(magicText: string, plain: Uint8Array): Uint8Array {
	const magic = new TextEncoder().encode(magicText);
	const key = kdf(provider, Uint8Array.of(0x63, 0), 'cvm-sev-nv-seal', new Uint8Array(0), 256);
	const iv = new Uint8Array(12).fill(7);
	return Uint8Array.from([...magic, ...iv, ...provider.gcmSeal(key, iv, magic, plain)]);
}

describe('the stored keys', () => {
	it('are the same after SHUTDOWN and INIT, and after a restart with the same flash', () => {
		const rig = createRig();
		rig.must('INIT');
		const before = certificatesOf(rig);
		rig.must('SHUTDOWN');
		rig.must('INIT');
		expect(certificatesOf(rig)).toEqual(before);
		const restarted = createRig({ nv: rig.nv, random: createRig({ seed: 'another boot' }).random });
		restarted.must('INIT');
		expect(certificatesOf(restarted)).toEqual(before);
	});

	it('are refused when any byte was changed, and INIT leaves them so', () => {
		const rig = createRig();
		rig.must('INIT');
		rig.must('SHUTDOWN');
		const good = rig.nv.content ?? new Uint8Array(0);
		for (const at of [0, 7, 8, 19, 20, 100, good.length - 17, good.length - 1]) {
			rig.nv.content = good.map((b, i) => (i === at ? b ^ 1 : b));
			expectRefusal(rig, 'INIT', {}, 'SECURE_DATA_INVALID');
		}
		for (const length of [1, 3, 8, 35, good.length - 1]) {
			rig.nv.content = good.slice(0, length);
			expectRefusal(rig, 'INIT', {}, 'SECURE_DATA_INVALID');
		}
		rig.nv.content = good;
		rig.must('INIT');
	});

	it('are refused by another chip', () => {
		const rig = createRig({ chipSeed: 'one' });
		rig.must('INIT');
		expectRefusal(createRig({ chipSeed: 'two', nv: rig.nv }), 'INIT', {}, 'SECURE_DATA_INVALID');
	});

	it.each([
		['holds nothing', new Uint8Array(0)],
		['is erased', new Uint8Array(0x8000).fill(0xff)],
	])('are made anew when the flash %s, and are not readable in it', (_, content) => {
		const nv = memoryStorage();
		nv.content = content;
		const rig = createRig({ nv });
		rig.must('INIT');
		const flash = toHex(nv.content);
		for (const key of [rig.platform.identity?.oca, rig.platform.identity?.pek, rig.platform.identity?.pdh]) {
			expect(flash).not.toContain(toHex(key?.privateKey?.subarray(0, 16) ?? new Uint8Array(1)));
			expect(flash).not.toContain(toHex(key?.certificate.subarray(0x14, 0x34) ?? new Uint8Array(1)));
		}
	});

	it('stay as they were when the flash cannot be written', () => {
		const rig = initialised();
		rig.nv.save = wornOut;
		expectRefusal(rig, 'PDH_GEN', {}, 'HWERROR_PLATFORM');
	});

	it('are forgotten by SHUTDOWN', () => {
		const rig = initialised();
		const { oca, pek, pdh } = rig.platform.identity ?? {};
		rig.must('SHUTDOWN');
		for (const key of [oca, pek, pdh]) expect(key?.privateKey).toEqual(new Uint8Array(48));
	});

	it('are taken from a flash of the format that knew no owners, and written in the new one', () => {
		const old = createRig({ chipSeed: 'c' });
		old.must('INIT');
		const { oca, pek, pdh } = identityOf(old);
		const plain = Buffer.concat([oca, pek, pdh].flatMap((k) => [k.privateKey ?? wornOut(), k.certificate]));
		const nv = memoryStorage();
		nv.content = sealed('CVMSEVN1', plain);
		const rig = createRig({ chipSeed: 'c', nv });
		const given = nv.content;
		rig.must('INIT');
		expect(rig.platform.identity).toMatchObject({ owner: 'self', oca, pek, pdh });
		expect(nv.content).toBe(given);
		rig.must('PDH_GEN');
		expect(new TextDecoder().decode(nv.content.subarray(0, 8))).toBe('CVMSEVN2');
		nv.content = given.map((b, i) => (i === 30 ? b ^ 1 : b));
		rig.must('SHUTDOWN');
		expectRefusal(rig, 'INIT', {}, 'SECURE_DATA_INVALID');
	});
});

describe('INIT over a flash in which keys are missing', () => {
	/** What INIT makes of some of a platform's keys. */
	function completed(keep: readonly ('oca' | 'pek' | 'pdh')[]) {
		const rig = createRig();
		rig.must('INIT');
		const before = identityOf(rig);
		rig.must('SHUTDOWN');
		const kept = Object.fromEntries(keep.map((name) => [name, before[name]]));
		rig.platform.flash.save({ owner: 'self', ...kept });
		const flash = rig.nv.content;
		rig.must('INIT');
		const after = identityOf(rig);
		expect(after.cek).toEqual(before.cek);
		const { oca, pek, pdh } = after;
		const chain = { oca: oca.certificate, pek: pek.certificate, pdh: pdh.certificate };
		expect(verifyOwnerChain(provider, chain)).toEqual({ status: 0 });
		const written = rig.nv.content !== flash;
		rig.must('SHUTDOWN');
		rig.must('INIT');
		expect(identityOf(rig)).toEqual(after);
		const same = (['oca', 'pek', 'pdh'] as const).filter(
			(name) => toHex(before[name].certificate) === toHex(after[name].certificate),
		);
		return { same, written };
	}

	it.each<[string, readonly ('oca' | 'pek' | 'pdh')[], readonly string[]]>([
		['makes all without an OCA', ['pek', 'pdh'], []],
		['makes PEK and PDH without a PEK', ['oca', 'pdh'], ['oca']],
		['makes a PDH without one', ['oca', 'pek'], ['oca', 'pek']],
		['makes all without any', [], []],
	])('%s, and stores it', (_, keep, same) => {
		expect(completed(keep)).toEqual({ same, written: true });
	});

	it('writes nothing when nothing is missing', () => {
		expect(completed(['oca', 'pek', 'pdh'])).toEqual({ same: ['oca', 'pek', 'pdh'], written: false });
	});
});

describe("INIT over another's platform", () => {
	const foreign = () => {
		const rig = createRig();
		rig.must('INIT');
		const { oca, pek, pdh } = identityOf(rig);
		rig.must('SHUTDOWN');
		return { rig, oca: { certificate: oca.certificate }, pek, pdh };
	};
	it('makes only a PDH that is missing', () => {
		const { rig, oca, pek } = foreign();
		rig.platform.flash.save({ owner: 'external', oca, pek });
		rig.must('INIT');
		expect(rig.platform.identity).toMatchObject({ owner: 'external', oca, pek });
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ owner: 1 });
	});
	it.each([
		['its OCA', 0b110],
		['its PEK', 0b101],
	])('refuses a store without %s, which nobody here could make', (_, parts) => {
		const nv = memoryStorage();
		nv.content = sealed('CVMSEVN2', Uint8Array.from([1, parts, ...new Uint8Array(14 + 3 * (48 + SEV_CERT_SIZE))]));
		expectRefusal(createRig({ chipSeed: 'c', nv }), 'INIT', {}, 'SECURE_DATA_INVALID');
		nv.content = sealed('CVMSEVN2', Uint8Array.from([0, 0, ...new Uint8Array(14 + 3 * (48 + SEV_CERT_SIZE))]));
		createRig({ chipSeed: 'c', nv }).must('INIT');
	});
	it('takes all three as they are, and no private key of the OCA with them', () => {
		const { rig, ...keys } = foreign();
		rig.platform.flash.save({ owner: 'external', ...keys });
		const flash = rig.nv.content;
		rig.must('INIT');
		expect(rig.platform.identity).toMatchObject(keys);
		expect(rig.platform.identity?.oca).toEqual(keys.oca);
		expect(rig.nv.content).toBe(flash);
	});
});

describe('an INIT that fails after its state check', () => {
	it('says HWERROR_PLATFORM when the flash cannot be read', () => {
		const rig = createRig();
		rig.nv.load = wornOut;
		expectRefusal(rig, 'INIT', {}, 'HWERROR_PLATFORM');
	});

	it('says HWERROR_PLATFORM when new keys cannot be stored, and keeps none', () => {
		const rig = createRig();
		rig.nv.save = wornOut;
		expectRefusal(rig, 'INIT', { flags: 1, tmrPaddr: 0x200000n, tmrLength: 0x100000 }, 'HWERROR_PLATFORM');
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 0, config: 0, owner: 0 });
	});

	it('stores nothing when its TMR is refused', () => {
		const rig = createRig();
		expectRefusal(rig, 'INIT', { flags: 1, tmrPaddr: 0x200000n, tmrLength: 0 }, 'INVALID_LENGTH');
		expect(rig.nv.content).toBeUndefined();
	});

	it.each(['INIT', 'INIT_EX'] as const)('leaves ASIDs as SHUTDOWN does: %s', (name) => {
		const rig = createRig();
		rig.machine.wbinvd();
		rig.must('DF_FLUSH');
		expect(rig.command(name, { flags: 2 }).status).toBe('INVALID_CONFIG');
		expectRefusal(rig, 'DF_FLUSH', {}, 'WBINVD_REQUIRED');
	});
});

describe('PLATFORM_RESET', () => {
	it('erases the flash, so that no old key comes back', () => {
		const rig = createRig();
		rig.must('INIT');
		rig.must('SHUTDOWN');
		rig.must('PLATFORM_RESET');
		expect(rig.nv.content).toEqual(new Uint8Array(0));
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 0 });
	});
	it('makes a flash usable that INIT refuses', () => {
		const rig = createRig();
		rig.nv.content = new Uint8Array(100);
		expectRefusal(rig, 'INIT', {}, 'SECURE_DATA_INVALID');
		rig.must('PLATFORM_RESET');
		rig.must('INIT');
	});
	it('says so when the flash cannot be written', () => {
		const rig = createRig();
		rig.must('INIT');
		rig.must('SHUTDOWN');
		rig.nv.save = wornOut;
		expectRefusal(rig, 'PLATFORM_RESET', {}, 'HWERROR_PLATFORM');
	});
});

describe('draws', () => {
	it('of INIT are candidates for OCA, PEK and PDH, then the IV; of PDH_GEN, one candidate and the IV', () => {
		const rig = createRig();
		const draws = (first: number) => [first, first + 1, first + 2].map((byte) => new Uint8Array(48).fill(byte));
		const [keys, iv] = [draws(0x21), new Uint8Array(12).fill(0x55)];
		rig.random.script.push(...keys, iv);
		rig.must('INIT');
		const { oca, pek, pdh } = rig.platform.identity ?? {};
		expect([oca, pek, pdh].map((key) => key?.privateKey)).toEqual(keys);
		expect(rig.nv.content?.subarray(8, 20)).toEqual(iv);
		rig.random.script.push(new Uint8Array(48).fill(0x61), new Uint8Array(12).fill(0x62));
		rig.must('PDH_GEN');
		expect(rig.platform.identity?.pdh.privateKey).toEqual(new Uint8Array(48).fill(0x61));
		expect(rig.random.script).toEqual([]);
	});

	it('are none when INIT finds all keys', () => {
		const rig = createRig();
		rig.must('INIT');
		rig.must('SHUTDOWN');
		rig.random.script.push(new Uint8Array(1));
		rig.must('INIT');
		expect(rig.random.script.length).toBe(1);
	});
});

it('an identity is wiped without the key of the chip', () => {
	const identity = identityOf(initialised());
	const cek = identity.cek.privateKey.slice();
	wipeIdentity(identity);
	expect([identity.cek.privateKey, identity.pek.privateKey]).toEqual([cek, new Uint8Array(48)]);
	expect(identity.pek.certificate.length).toBe(SEV_CERT_SIZE);
});
