import { wipe } from '@cvm/crypto';
import type { Infer } from '@cvm/layout';
import type { pekCertImportBuffer, pekCsrBuffer } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import {
	certKeyOf,
	SEV_CERT_BODY_SIZE,
	SEV_CERT_SIZE,
	verifySevCertificate,
} from '../../certificates/sev-certificate.js';
import { copyCekSignature, createIdentity, createPdh, csrOf, type Identity } from '../identity.js';
import type { Platform, PlatformHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';
import { requireIdentity } from './platform.js';

/**
 * SEV API 0.24 PLATFORM_RESET (Linux: FACTORY_RESET): erases the keys in the flash, so that the next INIT makes new ones.
 * Memory that INIT_EX was given keeps what is in it. HWERROR_PLATFORM if the flash cannot be written.
 */
export const platformReset: PlatformHandler<void> = (psp) => (psp.flash.erase() ? OK : refuse(Status.HWERROR_PLATFORM));

/**
 * SEV API 0.24 PEK_GEN: new OCA, PEK and PDH. The platform belongs to itself from now on, whoever owned it before.
 * HWERROR_PLATFORM if they cannot be stored; the old ones stay.
 */
export const pekGen: PlatformHandler<void> = (psp) => {
	const old = requireIdentity(psp);
	return adopt(psp, old, createIdentity(psp, old.cek));
};

/**
 * SEV API 0.24 PDH_GEN: a new PDH. Every session buffer made for the old one is worthless from now on. HWERROR_PLATFORM as
 * PEK_GEN.
 */
export const pdhGen: PlatformHandler<void> = (psp) => {
	const old = requireIdentity(psp);
	return adopt(psp, old, { ...old, pdh: createPdh(psp, old.pek) });
};

/** SEV API 0.24 PEK_CSR: what an owner signs, the PEK certificate without signatures. */
export const pekCsr: PlatformHandler<Infer<typeof pekCsrBuffer>> = (psp, { csrPaddr, csrLen }) => {
	const out = { csrLen: SEV_CERT_SIZE };
	if (csrLen < SEV_CERT_SIZE) return { status: Status.INVALID_LENGTH, out };
	const at = psp.memory.resolveLong(csrPaddr, SEV_CERT_SIZE);
	if (at < 0) return refuse(Status.INVALID_ADDRESS);
	psp.memory.dram.set(csrOf(requireIdentity(psp)), at);
	return { status: Status.SUCCESS, out };
};

/**
 * SEV API 0.24 PEK_CERT_IMPORT: the platform becomes that of the OCA's holder, who signed the PEK of PEK_CSR. The
 * certificates of OCA and PEK are replaced, the chip's signature is added to the PEK's, and the PDH is new.
 */
export const pekCertImport: PlatformHandler<Infer<typeof pekCertImportBuffer>> = (psp, b) => {
	const old = requireIdentity(psp);
	if (old.owner === 'external') return refuse(Status.ALREADY_OWNED);
	if (b.pekLen !== SEV_CERT_SIZE || b.ocaLen !== SEV_CERT_SIZE) return refuse(Status.INVALID_LENGTH);
	const pekAt = psp.memory.resolveLong(b.pekPaddr, SEV_CERT_SIZE);
	const ocaAt = psp.memory.resolveLong(b.ocaPaddr, SEV_CERT_SIZE);
	if (pekAt < 0 || ocaAt < 0) return refuse(Status.INVALID_ADDRESS);
	const oca = psp.memory.read(ocaAt, SEV_CERT_SIZE);
	const certificate = psp.memory.read(pekAt, SEV_CERT_SIZE);
	const status = checkOwner(psp, old, oca, certificate);
	if (status !== Status.SUCCESS) return refuse(status);
	if (!copyCekSignature(old.pek.certificate, certificate)) return refuse(Status.INVALID_CERTIFICATE);
	const pek = { ...old.pek, certificate };
	return adopt(psp, old, { owner: 'external', cek: old.cek, oca: { certificate: oca }, pek, pdh: createPdh(psp, pek) });
};

/** The OCA signed itself, it signed the PEK, and that PEK is the one this platform asked to have signed. */
function checkOwner({ provider }: Platform, { pek: own }: Identity, oca: Uint8Array, pek: Uint8Array): Status {
	const key = certKeyOf(oca);
	const ofOca = verifySevCertificate(provider, oca, key);
	if (ofOca !== Status.SUCCESS) return ofOca;
	const ofPek = verifySevCertificate(provider, pek, key);
	if (ofPek !== Status.SUCCESS) return ofPek;
	const isOurs = own.certificate.subarray(0, SEV_CERT_BODY_SIZE).every((byte, i) => byte === pek[i]);
	return isOurs ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
}

/**
 * Stores keys and goes on with them; if the storage does not take them, all is as before. The private keys of the side
 * that lost are forgotten.
 *
 * UNCERTAIN(SEV API 0.24 PEK_GEN): the status of a save that fails is not public; HWERROR_PLATFORM is what INIT answers for
 * storage that it cannot read.
 */
function adopt(psp: Platform, old: Identity, next: Identity): { readonly status: Status } {
	const isStored = psp.store.save(next);
	if (isStored) psp.identity = next;
	const [kept, gone] = isStored ? [next, old] : [old, next];
	for (const name of ['oca', 'pek', 'pdh'] as const) {
		const key = gone[name].privateKey;
		if (key !== undefined && key !== kept[name].privateKey) wipe(key);
	}
	return isStored ? OK : refuse(Status.HWERROR_PLATFORM);
}
