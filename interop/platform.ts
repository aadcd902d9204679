import { nobleProvider, seededRandom } from '@cvm/crypto';
import { spa } from '@cvm/layout';
import { createSevMachine, Status, statusName } from '@cvm/sev-hw';
import { COMMANDS } from '@cvm/sev-hw/abi';

const BUFFER = 0x100000;
const CERT = 2084;
const ASID = 100;

/** Where a test lays its data, by what it is. */
const AT = { first: 0x110000, second: 0x120000, third: 0x130000, guest: 0x140000 } as const;

/**
 * A machine whose firmware is in INIT, driven by command buffers as a kernel would. Its cryptography is the one in
 * JavaScript: Node's own is OpenSSL.
 */
export function sevPlatform(seed: string) {
	const machine = createSevMachine({
		dramBytes: 4 << 20,
		provider: nobleProvider,
		random: seededRandom(seed),
		chipSeed: seed,
	});
	const submit = (id: number, buffer?: Uint8Array): Uint8Array => {
		if (buffer) machine.dram.set(buffer, BUFFER);
		const status = machine.psp.submit(id, spa(BUFFER));
		if (status !== Status.SUCCESS) throw new Error(`command 0x${id.toString(16)}: ${statusName(status)}`);
		return machine.dram.slice(BUFFER, BUFFER + (buffer?.length ?? 0));
	};
	const put = (at: number, data: Uint8Array) => {
		machine.dram.set(data, at);
		return BigInt(at);
	};
	const at = (address: number, length: number) => machine.dram.slice(address, address + length);

	const { INIT, DF_FLUSH, PDH_CERT_EXPORT, PEK_CSR, GET_ID } = COMMANDS;
	const { LAUNCH_START, ACTIVATE, LAUNCH_UPDATE_DATA, LAUNCH_MEASURE, LAUNCH_SECRET, ATTESTATION } = COMMANDS;
	submit(INIT.id, INIT.buffer.encode({}));
	machine.wbinvd();
	submit(DF_FLUSH.id);

	const start = (owner: { policy: number; dhCert: Uint8Array; session: Uint8Array }) => {
		const blobs = {
			dhCertPaddr: put(AT.first, owner.dhCert),
			dhCertLen: owner.dhCert.length,
			sessionPaddr: put(AT.second, owner.session),
			sessionLen: owner.session.length,
		};
		const out = submit(LAUNCH_START.id, LAUNCH_START.buffer.encode({ policy: owner.policy, ...blobs }));
		const { handle } = LAUNCH_START.buffer.decode(out);
		submit(ACTIVATE.id, ACTIVATE.buffer.encode({ handle, asid: ASID }));
		return handle;
	};
	const measure = (handle: number, guest: Uint8Array) => {
		const update = { handle, paddr: put(AT.guest, guest), length: guest.length };
		submit(LAUNCH_UPDATE_DATA.id, LAUNCH_UPDATE_DATA.buffer.encode(update));
		submit(LAUNCH_MEASURE.id, LAUNCH_MEASURE.buffer.encode({ handle, paddr: BigInt(AT.third), length: 48 }));
		return at(AT.third, 48);
	};

	return {
		version: { major: 0, minor: 24, build: 15 },
		/** PEK, OCA and CEK as exported, and the PDH. */
		certificates: () => {
			const export_ = { pdhPaddr: BigInt(AT.first), pdhLen: CERT, certsPaddr: BigInt(AT.second), certsLen: 3 * CERT };
			submit(PDH_CERT_EXPORT.id, PDH_CERT_EXPORT.buffer.encode(export_));
			const chain = (i: number) => at(AT.second + i * CERT, CERT);
			return { pdh: at(AT.first, CERT), pek: chain(0), oca: chain(1), cek: chain(2) };
		},
		csr: () => {
			submit(PEK_CSR.id, PEK_CSR.buffer.encode({ csrPaddr: BigInt(AT.first), csrLen: CERT }));
			return at(AT.first, CERT);
		},
		chipId: () => {
			submit(GET_ID.id, GET_ID.buffer.encode({ idPaddr: BigInt(AT.first), idLen: 64 }));
			return at(AT.first, 64);
		},
		/** Launches a guest of an owner over some data, up to LAUNCH_MEASURE. */
		launch: (owner: { policy: number; dhCert: Uint8Array; session: Uint8Array }, guest: Uint8Array) => {
			const handle = start(owner);
			return { handle, blob: measure(handle, guest) };
		},
		/** LAUNCH_SECRET. @throws Error with the status that refuses it */
		inject: (handle: number, { header, payload }: { header: Uint8Array; payload: Uint8Array }) => {
			const fields = { handle, hdrLen: header.length, guestLen: payload.length, transLen: payload.length };
			const places = { hdrPaddr: put(AT.first, header), transPaddr: put(AT.second, payload) };
			submit(
				LAUNCH_SECRET.id,
				LAUNCH_SECRET.buffer.encode({ ...fields, ...places, guestPaddr: BigInt(AT.guest) + 4096n }),
			);
		},
		/** The report of a guest without an owner. */
		attestation: (mnonce: Uint8Array) => {
			const { handle } = LAUNCH_START.buffer.decode(submit(LAUNCH_START.id, LAUNCH_START.buffer.encode({})));
			submit(ACTIVATE.id, ACTIVATE.buffer.encode({ handle, asid: ASID }));
			measure(handle, new Uint8Array(4096));
			submit(ATTESTATION.id, ATTESTATION.buffer.encode({ handle, paddr: BigInt(AT.third), mnonce, length: 208 }));
			return at(AT.third, 208);
		},
	};
}
