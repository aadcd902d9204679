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
	type Rig,
	receiveStartFields,
	scriptedRandom,
	sendStartFields,
} from './rig.js';
import { inputOf, readVectors, vector } from './vectors/load.js';

// `vectors-runner.test.ts` runs every vector against single functions; here some go through the firmware.

const repeated = (byte: number, length: number) => new Uint8Array(length).fill(byte);

/** Gives the platform another Diffie-Hellman key, as INIT might have drawn it. */
function setPdh(rig: Rig, privateKey: Uint8Array): void {
	const { identity } = rig.platform;
	if (identity === undefined) throw new Error('rig: expected an identity');
	rig.platform.identity = { ...identity, pdh: { ...identity.pdh, privateKey } };
}

describe('the launch measurement', () => {
	it('is that of vector measurement sev-tool, through LAUNCH_START and LAUNCH_MEASURE', () => {
		const { input, output } = vector('measurement', 'sev-tool');
		const [version, policy] = [input.object('version'), input.number('policy')];
		const [major, minor, build] = [version.number('major'), version.number('minor'), version.number('build')];
		const rig = initialised({ version: { major, minor, build } });
		const owner = ownerWith(rig, policy, input.bytes('tik'));
		const { pdhCertPaddr, pdhCertLen, ...rest } = receiveStartFields(rig, policy, owner);
		const { handle = 0 } = rig.must('LAUNCH_START', { ...rest, dhCertPaddr: pdhCertPaddr, dhCertLen: pdhCertLen });
		rig.random.script.push(input.bytes('mnonce'));
		rig.must('LAUNCH_MEASURE', { handle, paddr: 0x300000n, length: 48 });
		expect(toHex(rig.at(0x300000, 48))).toBe(output('measure') + toHex(input.bytes('mnonce')));
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

/** A peer whose session carries a TIK, and a TEK if one is given. */
function ownerWith(rig: Rig, policy: number, tik: Uint8Array, tek: Uint8Array = repeated(0, 16)) {
	const random = scriptedRandom('owner');
	random.script.push(tek, tik);
	const peer = provider.p384.publicKey(rig.platform.identity?.pdh.privateKey ?? repeated(0, 48));
	const made = createSession(provider, random, { privateKey: repeated(0x11, 48), peer, policy });
	return { cert: peerOf(rig, policy).cert, ...made };
}

describe('opening a session', () => {
	const file = readVectors('session-open');

	it.each(file.cases)('$id, through RECEIVE_START and LAUNCH_START', (c) => {
		const input = inputOf(file, c);
		const platform = input.object('platform');
		const version = { major: platform.number('major'), minor: platform.number('minor'), build: 0 };
		const rig = initialised({ es: true, version });
		setPdh(rig, input.bytes('serverPrivateKey'));
		const policy = input.number('policy');
		const sent = { cert: input.bytes('clientCertificate'), session: input.bytes('session') };
		const fields = receiveStartFields(rig, policy, { ...peerOf(rig, policy), ...sent });
		const { pdhCertPaddr, pdhCertLen, ...rest } = fields;
		const launch = { ...rest, dhCertPaddr: pdhCertPaddr, dhCertLen: pdhCertLen };
		for (const answer of [rig.command('RECEIVE_START', fields), rig.command('LAUNCH_START', launch)]) {
			expect(answer.status).toBe(c.expect.status);
			if (c.expect.status !== 'SUCCESS') continue;
			const { masterSecret, tek, tik } = rig.platform.guests.get(answer.out.handle ?? 0)?.channel ?? {};
			const keys = { masterSecret: toHex(masterSecret ?? repeated(0, 0)), tek: toHex(tek ?? repeated(0, 0)) };
			expect({ status: answer.status, ...keys, tik: toHex(tik ?? repeated(0, 0)) }).toEqual(c.expect);
		}
	});
});

describe('the transport of a migration', () => {
	it('makes the session buffer of vector session-create fixed-inputs, through SEND_START', () => {
		const { input, output } = vector('session-create', 'fixed-inputs');
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
		const { handle } = guestIn(rig, GuestState.RUNNING, input.number('policy'), 1);
		const fields = sendStartFields(rig, handle, certificatesOf(withPdh('target', 0x02)));
		for (const draw of ['tek', 'tik', 'nonce', 'wrapIv']) rig.random.script.push(input.bytes(draw));
		rig.must('SEND_START', fields);
		expect(rig.platform.guests.get(handle)?.channel).toMatchObject({
			masterSecret: fromHex(output('masterSecret')),
			tek: input.bytes('tek'),
			tik: input.bytes('tik'),
		});
		expect(toHex(rig.at(fields.sessionPaddr, 128))).toBe(output('session'));
	});

	it.each(['data-16-zeros', 'data-page', 'data-counter-wrap', 'data-counter-carry-32', 'data-48-bytes'])(
		'seals as vector packet-seal %s, through SEND_UPDATE_DATA',
		(id) => {
			const { input, output } = vector('packet-seal', id);
			const rig = initialised();
			const { handle } = guestIn(rig, GuestState.RUNNING);
			const fields = sendStartFields(rig, handle, certificatesOf(rig));
			rig.random.script.push(input.bytes('tek'), input.bytes('tik'), repeated(0, 16), repeated(0, 16));
			rig.must('SEND_START', fields);
			const plaintext = input.bytes('plaintext');
			const [guest, hdr, trans] = [rig.allocate(4096), rig.allocate(52), rig.allocate(4096)];
			controllerOf(rig).write(ASID, guest, plaintext);
			rig.random.script.push(input.bytes('iv'));
			rig.must('SEND_UPDATE_DATA', {
				...{ handle, hdrPaddr: BigInt(hdr), hdrLen: 52 },
				...{ guestPaddr: BigInt(guest), guestLen: plaintext.length },
				...{ transPaddr: BigInt(trans), transLen: plaintext.length },
			});
			expect(toHex(rig.at(hdr, 52))).toBe(output('header'));
			expect(toHex(rig.at(trans, plaintext.length))).toBe(output('payload'));
		},
	);

	const file = readVectors('packet-open');
	// Those that pass the command's own checks of lengths, which come before the packet's.
	const received = file.cases.filter((c) => c.id.startsWith('data-') || c.id === 'data').filter(fitsCommand);
	function fitsCommand(c: (typeof file.cases)[number]): boolean {
		const input = inputOf(file, c);
		const [header, guestLength] = [input.bytes('header').length, input.number('guestLength')];
		const isData = input.number('context') === 2 && !input.has('measure');
		return isData && header >= 52 && guestLength > 0 && guestLength === input.bytes('payload').length;
	}

	it.each(received)('opens vector packet-open $id, through RECEIVE_UPDATE_DATA', (c) => {
		const input = inputOf(file, c);
		const rig = initialised();
		const peer = ownerWith(rig, 0, input.bytes('tik'), input.bytes('tek'));
		const { handle = 0 } = rig.must('RECEIVE_START', receiveStartFields(rig, 0, peer));
		rig.must('ACTIVATE', { handle, asid: ASID });
		const [header, payload] = [input.bytes('header'), input.bytes('payload')];
		const guest = rig.allocate(4096);
		const before: Uint8Array = patternPage().subarray(0, payload.length);
		controllerOf(rig).write(ASID, guest, before);
		const { status } = rig.command('RECEIVE_UPDATE_DATA', {
			...{ handle, hdrPaddr: rig.put(header), hdrLen: header.length },
			...{ guestPaddr: BigInt(guest), guestLen: payload.length },
			...{ transPaddr: rig.put(payload), transLen: payload.length },
		});
		const after = new Uint8Array(payload.length);
		controllerOf(rig).read(ASID, guest, after);
		expect(status).toBe(c.expect.status);
		expect(toHex(after)).toBe(c.expect['plaintext'] ?? toHex(before));
	});
});
