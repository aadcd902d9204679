import type { CommandName } from '../../src/abi/commands.js';
import { Policy } from '../../src/abi/policy.js';
import {
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	signSevCertificate,
} from '../../src/certificates/sev-certificate.js';
import { PacketContext, sealPacket } from '../../src/channel/packet.js';
import type { ChannelKeys } from '../../src/channel/session.js';
import { buildFirmwareImage } from '../../src/fake-amd/index.js';
import { scalar } from '../fake-platform.js';
import {
	certificatesOf,
	GuestState,
	guestIn,
	initialised,
	patternPage,
	peerOf,
	provider,
	type Rig,
	receiveStartFields,
	sendStartFields,
	type TestGuest,
} from '../rig.js';
import type { Situation } from './spec.js';

type Fields = Parameters<Rig['command']>[1] & object;

/** A rig with one guest as a situation wants it, and fields for each command that pass every check. */
export interface Prepared {
	readonly rig: Rig;
	/** The guest; a number that nobody has in situations without one. */
	readonly handle: number;
	sound(name: CommandName): Fields;
}

/** Not what {@link guestIn} takes. */
const FREE_ASID = { plain: 101, es: 8 };
const zeroKeys: Pick<ChannelKeys, 'tek' | 'tik'> = { tek: new Uint8Array(16), tik: new Uint8Array(16) };
const iv = scalar(0x77).subarray(0, 16);

let target: ReturnType<typeof certificatesOf> | undefined;
/** Certificates of another chip, to send to. */
function targetCertificates() {
	target ??= certificatesOf(initialised({ seed: 'target' }));
	return target;
}

/**
 * Brings a platform with SEV-ES and a bound guest up, then takes down what the situation does not want.
 *
 * @param names commands that `sound` will be asked for
 */
export function prepare({ platform, guest, bound, es }: Situation, names: readonly CommandName[]): Prepared {
	const rig = initialised({ es: true });
	const policy = es ? Policy.ES : 0;
	const made = guestIn(rig, GuestState[guest === 'UNINIT' ? 'LUPDATE' : guest], policy);
	const makers = fieldMakers(rig, made, policy);
	// Now, while there is an identity to make sessions and certificates for.
	const fields = new Map(names.map((name) => [name, makers[name]?.() ?? {}]));
	if (!bound || platform !== 'WORKING') rig.must('DEACTIVATE', { handle: made.handle });
	if (platform !== 'WORKING') rig.must('DECOMMISSION', { handle: made.handle });
	if (platform === 'UNINIT') rig.must('SHUTDOWN');
	const handle = guest === 'UNINIT' ? made.handle + 1 : made.handle;
	// Creating commands share no key here.
	const sharing = { LAUNCH_START: 0, RECEIVE_START: 0 } as Partial<Record<CommandName, number>>;
	return { rig, handle, sound: (name) => ({ ...fields.get(name), handle: sharing[name] ?? handle }) };
}

function fieldMakers(rig: Rig, made: TestGuest, policy: number): Partial<Record<CommandName, () => Fields>> {
	const { handle: of, page: data } = made;
	const es = policy !== 0;
	const measure = rig.platform.guests.get(of)?.measure;
	const free = BigInt(rig.allocate(8192));
	const out = { hdrPaddr: BigInt(rig.allocate(52)), hdrLen: 52 };
	const transPaddr = BigInt(rig.allocate(4096));
	const packet = (keys: typeof zeroKeys, context: number, plaintext: Uint8Array, bound?: Uint8Array) => {
		const sealed = sealPacket(provider, keys, { context, iv, plaintext, ...(bound && { measure: bound }) });
		const { length } = plaintext;
		return {
			hdrPaddr: rig.put(sealed.header),
			hdrLen: 52,
			guestPaddr: free,
			guestLen: length,
			transPaddr: rig.put(sealed.payload),
			transLen: length,
		};
	};
	const swapOut = () => ({
		srcPaddr: data,
		dstPaddr: BigInt(rig.allocate(4096)),
		mdataPaddr: BigInt(rig.allocate(64)),
	});
	const sending = { ...out, guestPaddr: data, guestLen: 4096, transPaddr, transLen: 4096 };
	// What `receiveStartFields` of a guest in RUPDATE was made with.
	const received = () => peerOf(rig, policy).keys;
	return {
		INIT: () => ({}),
		INIT_EX: () => ({ length: 36 }),
		PEK_CSR: () => ({ csrPaddr: transPaddr, csrLen: 2084 }),
		PEK_CERT_IMPORT: () => ownerFields(rig),
		PDH_CERT_EXPORT: () => ({
			pdhPaddr: BigInt(rig.allocate(2084)),
			pdhLen: 2084,
			certsPaddr: BigInt(rig.allocate(6252)),
			certsLen: 6252,
		}),
		DOWNLOAD_FIRMWARE: () => firmwareFields(rig),
		GET_ID: () => ({ idPaddr: free, idLen: 64 }),
		ACTIVATE: () => ({ asid: FREE_ASID[es ? 'es' : 'plain'] }),
		ACTIVATE_EX: () => ({
			exLen: 24,
			asid: FREE_ASID[es ? 'es' : 'plain'],
			numIds: 1,
			idsPaddr: rig.put(new Uint8Array(4)),
		}),
		COPY: () => ({ srcPaddr: data, dstPaddr: free, length: 4096 }),
		LAUNCH_START: () => launchFields(rig),
		LAUNCH_UPDATE_DATA: () => ({ paddr: free, length: 16 }),
		LAUNCH_UPDATE_VMSA: () => ({ paddr: free, length: 4096 }),
		LAUNCH_MEASURE: () => ({ paddr: free, length: 48 }),
		LAUNCH_SECRET: () => packet(zeroKeys, PacketContext.secret, scalar(1).subarray(0, 16), measure),
		ATTESTATION: () => ({ paddr: free, length: 208 }),
		SEND_START: () => sendStartFields(rig, of, targetCertificates()),
		SEND_UPDATE_DATA: () => sending,
		SEND_UPDATE_VMSA: () => ({ ...sending, guestPaddr: made.saveArea }),
		RECEIVE_START: () => receiveStartFields(rig, 0),
		RECEIVE_UPDATE_DATA: () => packet(received(), PacketContext.data, scalar(2).subarray(0, 16)),
		RECEIVE_UPDATE_VMSA: () => packet(received(), rig.platform.options.vmsaPacketContext, patternPage()),
		DBG_DECRYPT: () => ({ srcPaddr: data, dstPaddr: free, length: 16 }),
		DBG_ENCRYPT: () => ({ srcPaddr: free, dstPaddr: data, length: 16 }),
		SWAP_OUT: swapOut,
		SWAP_IN: () => {
			const swapped = swapOut();
			rig.must('SWAP_OUT', { handle: of, ...swapped });
			return { ...swapped, srcPaddr: swapped.dstPaddr, dstPaddr: data };
		},
	};
}

/** LAUNCH_START with an owner, for a plain guest. */
function launchFields(rig: Rig): Fields {
	const { cert, session } = peerOf(rig, 0, 'owner');
	return {
		policy: 0,
		dhCertPaddr: rig.put(cert),
		dhCertLen: cert.length,
		sessionPaddr: rig.put(session),
		sessionLen: session.length,
	};
}

/** PEK_CERT_IMPORT with an owner's certificate and its signature on the platform's PEK. */
function ownerFields(rig: Rig): Fields {
	const csr = rig.allocate(2084);
	rig.must('PEK_CSR', { csrPaddr: BigInt(csr), csrLen: 2084 });
	const signer = { usage: CertUsage.OCA, algo: CertAlgo.ECDSA_SHA256, privateKey: scalar(0x21) };
	const oca = buildSevCertificate({
		version: { major: 0, minor: 24 },
		usage: CertUsage.OCA,
		algo: CertAlgo.ECDSA_SHA256,
		key: provider.p384.publicKey(signer.privateKey),
	});
	signSevCertificate(provider, oca, signer);
	const pek = new Uint8Array(rig.at(csr, 2084));
	signSevCertificate(provider, pek, signer);
	return { pekPaddr: rig.put(pek), pekLen: 2084, ocaPaddr: rig.put(oca), ocaLen: 2084 };
}

let image: Uint8Array | undefined;
function firmwareFields(rig: Rig): Fields {
	image ??= buildFirmwareImage(provider, { major: 0, minor: 24, build: 16 });
	return { fwPaddr: rig.put(image), fwLen: image.length };
}
