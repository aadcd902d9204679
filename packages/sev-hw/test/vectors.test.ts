import { fromHex, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { createSession } from '../src/channel/session.js';
import {
	ASID,
	certificatesOf,
	controllerOf,
	createRig,
	GuestState,
	guestIn,
	initialised,
	patternPage,
	peerOf,
	provider,
	receiveStartFields,
	scriptedRandom,
	sendStartFields,
} from './rig.js';

const repeated = (byte: number, length: number) => new Uint8Array(length).fill(byte);
const counting = (from: number, length = 16) => Uint8Array.from({ length }, (_, i) => from + i);

describe('the launch measurement', () => {
	it("is that of AMD's sev-tool for its test vector, through LAUNCH_START and LAUNCH_MEASURE", () => {
		// AMDESE/sev-tool, tests.cpp: LD of nothing, policy 0, API 0.18 build 15.
		const tik = fromHex('66320db73158a35a255d051758e95ed4');
		const mnonce = fromHex('4fbe0bedbad6c86ae8f68971d103e554');
		const rig = initialised({ version: { major: 0, minor: 18, build: 15 } });
		const { cert } = peerOf(rig, 0);
		const owner = scriptedRandom('owner');
		owner.script.push(repeated(0, 16), tik);
		const pdh = rig.platform.identity?.pdh.privateKey ?? new Uint8Array(0);
		const peer = provider.p384.publicKey(pdh);
		const { session } = createSession(provider, owner, { privateKey: repeated(0x11, 48), peer, policy: 0 });
		const { policy, sessionPaddr, sessionLen, ...c } = receiveStartFields(rig, 0, {
			cert,
			session,
			keys: peerOf(rig, 0).keys,
		});
		const start = { policy, sessionPaddr, sessionLen, dhCertPaddr: c.pdhCertPaddr, dhCertLen: c.pdhCertLen };
		const { handle = 0 } = rig.must('LAUNCH_START', start);
		rig.random.script.push(mnonce);
		rig.must('LAUNCH_MEASURE', { handle, paddr: 0x300000n, length: 48 });
		expect(toHex(rig.at(0x300000, 48))).toBe(
			`6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea${toHex(mnonce)}`,
		);
	});

	it('covers data in the order of its LAUNCH_UPDATE_DATA, not its addresses', () => {
		const measure = (order: readonly number[]) => {
			const rig = initialised();
			const { handle = 0 } = rig.must('LAUNCH_START');
			rig.must('ACTIVATE', { handle, asid: ASID });
			rig.machine.dram.fill(1, 0x300000, 0x301000);
			rig.machine.dram.fill(2, 0x301000, 0x302000);
			for (const at of order) rig.must('LAUNCH_UPDATE_DATA', { handle, paddr: BigInt(at), length: 4096 });
			rig.random.script.push(repeated(3, 16));
			rig.must('LAUNCH_MEASURE', { handle, paddr: 0x310000n, length: 48 });
			return toHex(rig.at(0x310000, 32));
		};
		const digest = provider.digest('sha256', repeated(1, 4096), repeated(2, 4096));
		const input = Uint8Array.of(4, 0, 24, 15, 0, 0, 0, 0, ...digest, ...repeated(3, 16));
		expect(measure([0x300000, 0x301000])).toBe(toHex(provider.hmacSha256(new Uint8Array(16), input)));
		expect(measure([0x301000, 0x300000])).not.toBe(measure([0x300000, 0x301000]));
	});
});

// Our own values, made by an independent script; not published by anybody, so no proof of conformance.
describe('the transport of a migration', () => {
	it('makes the session buffer of the fixed keys, through SEND_START', () => {
		// INIT draws candidates for OCA, PEK and PDH, and the IV of what it stores.
		const withPdh = (seed: string, pdh: number) => {
			const rig = createRig({ seed });
			rig.random.script.push(repeated(0x21, 48), repeated(0x22, 48), repeated(pdh, 48), repeated(0, 12));
			rig.must('INIT', { flags: 1, tmrPaddr: 0x300000n, tmrLength: 0x100000 });
			rig.machine.wbinvd();
			rig.must('DF_FLUSH');
			return rig;
		};
		const rig = withPdh('source', 0x01);
		const { handle } = guestIn(rig, GuestState.RUNNING, 0x25, 1);
		const fields = sendStartFields(rig, handle, certificatesOf(withPdh('target', 0x02)));
		rig.random.script.push(counting(0x20), counting(0x30), counting(0x10), counting(0x40));
		rig.must('SEND_START', fields);
		expect(rig.platform.guests.get(handle)?.channel).toMatchObject({
			masterSecret: fromHex('ada6b461333e2cbeea201cc05036ebbd'),
			tek: counting(0x20),
			tik: counting(0x30),
		});
		expect(toHex(rig.at(fields.sessionPaddr, 128))).toBe(
			'101112131415161718191a1b1c1d1e1f89008427d59af48a57cc0c14e54281b0303c8c19cc11856cb93e277484accd50' +
				'404142434445464748494a4b4c4d4e4f08458271796a934bafbe4e5971fa3fd9fe094dacd83364439887e6fe79cb7838' +
				'ecb7132d6bb36a4613d63075acc3bdae4626bb854b83d82f0ea4461b07e8ce30',
		);
	});

	/** A guest in SUPDATE with TEK 00…0f and TIK 10…1f. */
	function sender() {
		const rig = initialised();
		const { handle, page } = guestIn(rig, GuestState.RUNNING);
		const fields = sendStartFields(rig, handle, certificatesOf(rig));
		rig.random.script.push(counting(0x00), counting(0x10), repeated(0, 16), repeated(0, 16));
		rig.must('SEND_START', fields);
		const zero = rig.allocate(4096);
		controllerOf(rig).write(ASID, zero, new Uint8Array(64));
		const send = (guestPaddr: bigint, guestLen: number, iv: Uint8Array) => {
			rig.random.script.push(iv);
			const [hdrPaddr, transPaddr] = [BigInt(rig.allocate(52)), BigInt(rig.allocate(4096))];
			rig.must('SEND_UPDATE_DATA', {
				handle,
				hdrPaddr,
				hdrLen: 52,
				guestPaddr,
				guestLen,
				transPaddr,
				transLen: guestLen,
			});
			return { header: toHex(rig.at(hdrPaddr, 52)), payload: rig.at(transPaddr, guestLen) };
		};
		return { page, zero: BigInt(zero), send };
	}

	it('seals 16 zero bytes', () => {
		const { zero, send } = sender();
		const { header, payload } = send(zero, 16, counting(0x20));
		expect(toHex(payload)).toBe('5be87e2e5b447c944b21c9af7756c0d8');
		expect(header).toBe(
			'00000000202122232425262728292a2b2c2d2e2fc81fdc6cf7def343cccad0171628f4d09810893011bf5ac4b36117f0a9efb21e',
		);
	});

	it('seals a page', () => {
		const { page, send } = sender();
		const { header, payload } = send(page, 4096, counting(0x20));
		expect(toHex(payload.subarray(0, 16))).toBe('58e26f36446251a0706380ff2008a5b4');
		expect(toHex(provider.digest('sha256', payload))).toBe(
			'ff11ff92e81cced97e3dde55bd721fbcf5f87033f57feb0c5ba85cfc9ae82576',
		);
		expect(header.slice(40)).toBe('ac8a0ca19bcef109b40f88610862da59715874d4198ff4fb7fe72546422a0279');
	});

	it('lets the counter wrap as one integer of 128 bits', () => {
		const { zero, send } = sender();
		const { header, payload } = send(zero, 32, repeated(0xff, 16));
		expect(toHex(payload)).toBe('3c441f32ce07822364d7a2990e50bb13c6a13b37878f5b826f4f8162a1c8d879');
		expect(header.slice(40)).toBe('6ec3a9ee98069b6e5f4ab6d804d465cbf3a2f1b6fb5a3593123b7f1ea93df182');
	});

	it('opens a page sealed elsewhere', () => {
		const rig = initialised();
		const { cert } = peerOf(rig, 0);
		const random = scriptedRandom('peer');
		random.script.push(counting(0x00), counting(0x10));
		const peer = provider.p384.publicKey(rig.platform.identity?.pdh.privateKey ?? new Uint8Array(0));
		const made = createSession(provider, random, { privateKey: repeated(0x11, 48), peer, policy: 0 });
		const { handle = 0 } = rig.must('RECEIVE_START', receiveStartFields(rig, 0, { cert, ...made }));
		rig.must('ACTIVATE', { handle, asid: ASID });
		const header = fromHex(
			'00000000202122232425262728292a2b2c2d2e2fc81fdc6cf7def343cccad0171628f4d09810893011bf5ac4b36117f0a9efb21e',
		);
		const payload = fromHex('5be87e2e5b447c944b21c9af7756c0d8');
		const packet = { hdrPaddr: rig.put(header), hdrLen: 52, transPaddr: rig.put(payload), transLen: 16 };
		rig.must('RECEIVE_UPDATE_DATA', { handle, ...packet, guestPaddr: 0x300000n, guestLen: 16 });
		const out = patternPage().subarray(0, 16);
		controllerOf(rig).read(ASID, 0x300000, out);
		expect(out).toEqual(new Uint8Array(16));
	});
});
