import { Policy } from '../../src/abi/policy.js';
import {
	BAD_CERTIFICATE,
	big,
	FIRST_PLAIN_ASID,
	type Given,
	holds,
	num,
	type OnGuest,
	PACKET_LIMIT,
	predictWith,
	type RunChecks,
	type Stage,
	type Stages,
	unreachable,
	untouched,
} from './predict.js';
import { asidState, isBound, type World } from './world.js';

const LENGTH = 'INVALID_LENGTH';
const ADDRESS = 'INVALID_ADDRESS';
const PARAM = 'INVALID_PARAM';
/** First byte under the MAC of a launch secret. */
const SECRET = 1;
const CBIT = 1n << 51n;

const needsAsid = ({ guest }: OnGuest): Stage => [[!isBound(guest), 'INACTIVE']];
const needsEs = ({ guest }: OnGuest): Stage => [[(guest.policy & Policy.ES) === 0, 'UNSUPPORTED']];

function* asidFits({ m, f, guest }: OnGuest): Stages {
	const asid = num(f, 'asid');
	yield [[asidState(m, asid) === 'dirty', 'DF_FLUSH_REQUIRED']];
	yield [[((guest.policy & Policy.ES) !== 0) !== asid < FIRST_PLAIN_ASID, 'INVALID_ASID']];
}

function* sendPacket(given: OnGuest): Stages {
	const { f } = given;
	const length = num(f, 'guestLen');
	const fits = length !== 0 && length % 16 === 0 && length <= PACKET_LIMIT && num(f, 'transLen') >= length;
	yield [[!fits, LENGTH]];
	yield [[big(f, 'guestPaddr') % 16n !== 0n, ADDRESS]];
	yield unreachable(given, ['hdrPaddr', 52], ['guestPaddr', length], ['transPaddr', length]);
}

function* receivePacket(given: OnGuest, context: number): Stages {
	const { f } = given;
	const length = num(f, 'guestLen');
	const fits = length !== 0 && length % 16 === 0 && length === num(f, 'transLen') && length <= PACKET_LIMIT;
	yield [[!fits || num(f, 'hdrLen') < 52, LENGTH]];
	yield [[big(f, 'guestPaddr') % 16n !== 0n, ADDRESS]];
	yield unreachable(given, ['hdrPaddr', 52], ['guestPaddr', length], ['transPaddr', length]);
	yield badPacket(given, context);
}

/** A packet counts only whole, in its own session and for its own purpose. */
function badPacket(given: OnGuest, context: number): Stage {
	const { m, f, guest, intent } = given;
	const known = [intent.packet, ...m.packets].filter((packet) => packet !== undefined);
	const [header, payload] = [big(f, 'hdrPaddr'), big(f, 'transPaddr')];
	const measure = Buffer.from(guest.measure).toString('hex');
	const genuine = known.some(
		(packet) =>
			packet.channel === guest.channel &&
			packet.context === context &&
			(context !== SECRET || packet.measure === measure) &&
			packet.payload.length === num(f, 'guestLen') &&
			holds(given, header, packet.header) &&
			holds(given, payload, packet.payload),
	);
	// Compression is refused before the MAC, in a launch secret after it.
	const flags = given.dram[Number(header & ~CBIT)] ?? 0;
	const compressed = context !== SECRET && (flags & 1) !== 0;
	return [[!genuine, compressed ? 'UNSUPPORTED' : 'BAD_MEASUREMENT']];
}

/** Whether the page of a save area is as the firmware left it: the model cannot see through encryption, so it may not know. */
function saveArea({ f, guest, dram }: OnGuest): Stage {
	if (num(f, 'guestLen') < 4096 || guest.saveAreas.length === 0) return [[true, PARAM]];
	const at = Number(big(f, 'guestPaddr') & ~CBIT);
	const now = Buffer.from(dram.buffer, dram.byteOffset + at, 4096);
	const own = guest.saveAreas.some(({ page, ciphertext }) => Number(page) === at && ciphertext.equals(now));
	return own ? [] : [[true, PARAM, 'SUCCESS']];
}

function* debug(given: OnGuest): Stages {
	const { f, guest } = given;
	yield [[(guest.policy & Policy.NODBG) !== 0, 'POLICY_FAILURE']];
	yield needsAsid(given);
	yield [[num(f, 'length') === 0, PARAM]];
	yield unreachable(given, ['srcPaddr', num(f, 'length')], ['dstPaddr', num(f, 'length')]);
}

/** Flags of SWAP_*: what the model's sources leave open may be refused in either way. */
function swapFlags({ f }: Given, known: number): Stage {
	const flags = num(f, 'flags');
	const type = flags & 6;
	return [
		[(flags & ~known) !== 0 || type === 2 || type === 6, PARAM],
		[type === 4, 'UNSUPPORTED', PARAM],
	];
}
export const pageSize = (flags: number): number => ((flags & 1) === 0 ? 0x1000 : 0x200000);

const runChecks = (vmsaContext: number): RunChecks => ({
	*DECOMMISSION({ guest }) {
		yield [[isBound(guest), 'ACTIVE']];
	},
	*DEACTIVATE(given) {
		yield needsAsid(given);
	},
	ACTIVATE: asidFits,
	*ACTIVATE_EX(given) {
		const { f, intent } = given;
		const open = unreachable(given, ['idsPaddr', 4 * num(f, 'numIds')]);
		const exist = untouched(given, 'idsPaddr', 'numIds') && intent.idsExist === true;
		// Noise may happen to be the id of a core.
		if (!untouched(given, 'idsPaddr', 'numIds')) {
			yield open;
			yield [[true, 'SUCCESS', PARAM, 'DF_FLUSH_REQUIRED', 'INVALID_ASID']];
		}
		yield [...open, [!exist, PARAM]];
		yield* asidFits(given);
	},
	*COPY(given) {
		const { f } = given;
		const length = num(f, 'length');
		yield needsAsid(given);
		yield [[length === 0 || length % 4096 !== 0, LENGTH]];
		yield [[big(f, 'srcPaddr') % 4096n !== 0n || big(f, 'dstPaddr') % 4096n !== 0n, ADDRESS]];
		yield unreachable(given, ['srcPaddr', length], ['dstPaddr', length]);
	},
	*LAUNCH_UPDATE_DATA(given) {
		const { f } = given;
		const length = num(f, 'length');
		yield needsAsid(given);
		yield [[big(f, 'paddr') % 16n !== 0n, ADDRESS]];
		yield [[length === 0 || length % 16 !== 0, LENGTH]];
		yield unreachable(given, ['paddr', length]);
	},
	*LAUNCH_UPDATE_VMSA(given) {
		yield needsEs(given);
		yield needsAsid(given);
		yield [[big(given.f, 'paddr') % 16n !== 0n, ADDRESS]];
		yield unreachable(given, ['paddr', 4096]);
	},
	*LAUNCH_MEASURE(given) {
		yield [[num(given.f, 'length') < 48, LENGTH]];
		yield unreachable(given, ['paddr', 48]);
	},
	*LAUNCH_SECRET(given) {
		const length = num(given.f, 'guestLen');
		yield needsAsid(given);
		yield unreachable(given, ['hdrPaddr', 52], ['guestPaddr', length], ['transPaddr', length]);
		yield badPacket(given, SECRET);
	},
	*ATTESTATION(given) {
		yield [[num(given.f, 'length') < 208, LENGTH]];
		yield unreachable(given, ['paddr', 208]);
	},
	*SEND_START(given) {
		const { f, guest, intent } = given;
		const { policy } = guest;
		yield [[(policy & Policy.NOSEND) !== 0, 'POLICY_FAILURE']];
		const chain = num(f, 'platCertsLen') === 6252 && num(f, 'pdhCertLen') === 2084;
		const paths: [string, number][] = [
			['pdhCertPaddr', 2084],
			['platCertsPaddr', 6252],
		];
		const whole = intent.target !== 'software' && untouched(given, 'pdhCertPaddr', 'platCertsPaddr');
		if ((policy & Policy.SEV) !== 0) {
			const amd = num(f, 'amdCertsLen');
			yield [[!chain || ![1664, 2176, 2688, 3200].includes(amd), LENGTH]];
			yield unreachable(given, ...paths, ['amdCertsPaddr', amd]);
			const rooted = whole && untouched(given, 'amdCertsPaddr', 'amdCertsLen');
			yield [[!rooted, ...BAD_CERTIFICATE, LENGTH]];
		}
		if ((policy & Policy.DOMAIN) !== 0) {
			yield [[!chain, LENGTH]];
			yield unreachable(given, ...paths);
			yield [[!whole, ...BAD_CERTIFICATE]];
			yield [[intent.target !== 'self', 'POLICY_FAILURE']];
		}
		yield [[num(f, 'pdhCertLen') !== 2084, LENGTH]];
		yield unreachable(given, ['pdhCertPaddr', 2084], ['sessionPaddr', 128]);
		// Noise may point to a PDH that was exported there.
		if (!untouched(given, 'pdhCertPaddr')) yield [[true, 'INVALID_CERTIFICATE', 'SUCCESS']];
	},
	*SEND_UPDATE_DATA(given) {
		yield needsAsid(given);
		yield* sendPacket(given);
	},
	*SEND_UPDATE_VMSA(given) {
		yield needsEs(given);
		yield needsAsid(given);
		yield* sendPacket(given);
		yield saveArea(given);
	},
	*RECEIVE_UPDATE_DATA(given) {
		yield needsAsid(given);
		yield* receivePacket(given, 2);
	},
	*RECEIVE_UPDATE_VMSA(given) {
		yield needsEs(given);
		yield needsAsid(given);
		yield* receivePacket(given, vmsaContext);
		yield [[num(given.f, 'transLen') < 4096, LENGTH]];
	},
	DBG_DECRYPT: debug,
	DBG_ENCRYPT: debug,
	*SWAP_OUT(given) {
		const size = pageSize(num(given.f, 'flags'));
		const crooked = ['srcPaddr', 'dstPaddr'].some((key) => big(given.f, key) % BigInt(size) !== 0n);
		yield needsAsid(given);
		yield swapFlags(given, 7);
		yield [[crooked, ADDRESS], ...unreachable(given, ['srcPaddr', size], ['dstPaddr', size], ['mdataPaddr', 64])];
	},
	*SWAP_IN(given) {
		const { m, f, guest, intent } = given;
		const size = pageSize(num(f, 'flags'));
		const to = (num(f, 'flags') & 8) === 0 ? 'dstPaddr' : 'srcPaddr';
		const crooked = ['srcPaddr', to].some((key) => big(f, key) % BigInt(size) !== 0n);
		yield needsAsid(given);
		yield swapFlags(given, 15);
		yield [[crooked, ADDRESS], ...unreachable(given, ['srcPaddr', size], [to, size], ['mdataPaddr', 64])];
		const own = [intent.swapped, ...m.swapped].filter((swapped) => swapped?.serial === guest.serial);
		const found = own.find(
			(swapped) =>
				swapped !== undefined &&
				holds(given, big(f, 'srcPaddr'), swapped.page) &&
				holds(given, big(f, 'mdataPaddr'), swapped.entry),
		);
		const genuine = found !== undefined && found.flags === (num(f, 'flags') & 7);
		yield [[!genuine, 'BAD_MEASUREMENT', PARAM]];
	},
});

/** What the firmware may answer: see `predictWith`. */
export const predict = ({ rig }: World, given: Omit<Given, 'dram'>): readonly string[] =>
	predictWith({ ...given, dram: rig.machine.dram }, runChecks(rig.platform.options.vmsaPacketContext));
