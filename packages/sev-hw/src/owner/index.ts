/**
 * The guest owner's half of a launch (SEV API 0.24 §6.2, §6.6): verify the platform, wrap keys for it, check the
 * measurement, package secrets, verify attestation reports; and the platform owner's: sign its PEK. Needs no platform,
 * only what an untrusted host passes on. `sevctl` and `sevTool` are the files of two public tools.
 *
 * ```ts
 * const { status } = verifyPlatform(provider, { pdh, chain, cek, askArk, trust: AMD_ROOTS.naples });
 * if (status !== Status.SUCCESS) throw new Error('not an AMD platform');
 * const { dhCert, session, keys } = createLaunchSession({ provider, random, platformPdh: pdh, policy });
 * // the host runs LAUNCH_START with dhCert and session, loads the firmware, and returns LAUNCH_MEASURE's blob
 * const digest = guestLaunchDigest(provider, { firmware, boot: { kernel, initrd, commandLine } });
 * if (verifyMeasurement(provider, blob, { tik: keys.tik, version, policy, digest }) === Status.SUCCESS) {
 * 	const measure = blob.subarray(0, 32);
 * 	const secret = secretTable([{ guid, data }]);
 * 	const { header, payload } = packageSecret({ provider, random, keys, measure, secret });
 * }
 * ```
 *
 * @packageDocumentation
 */
export { Status, statusName } from '../abi/status.js';
export type { AmdCertificate, ArkPin } from '../certificates/amd-certificate.js';
export { readAmdCertificate, splitAmdCertificates, splitAskArk } from '../certificates/amd-certificate.js';
export type { ChainLink, ChainVerdict } from '../certificates/chain.js';
export { algoName, describeCertificate, usageName } from '../certificates/describe.js';
export type { SevCertificate, SignatureSlot } from '../certificates/sev-certificate.js';
export { CertAlgo, CertUsage, readSevCertificate, SEV_CERT_SIZE } from '../certificates/sev-certificate.js';
export type { MeasurementInput } from '../channel/measurement.js';
export type { ChannelKeys } from '../channel/session.js';
export { AMD_ROOTS } from './amd-roots.js';
export type { AttestationReport, AttestationVerdict } from './attestation.js';
export { readAttestationReport, verifyAttestation } from './attestation.js';
export type { SessionEvidence, SessionVerdict } from './check-session.js';
export { checkLaunchSession } from './check-session.js';
export type { CpuName } from './cpu-signatures.js';
export { CPU_SIGNATURES, cpuSignature } from './cpu-signatures.js';
export { OwnerError } from './error.js';
export type { SevBlocks } from './firmware-table.js';
export { readSevBlocks } from './firmware-table.js';
export type { Files } from './formats/files.js';
export * as sevTool from './formats/sev-tool.js';
export type { CaCertificates, PlatformCertificates, StoredSession } from './formats/sevctl.js';
export * as sevctl from './formats/sevctl.js';
export type { VcpuStart } from './initial-vmsa.js';
export { initialVmsa } from './initial-vmsa.js';
export type { BootFiles } from './kernel-hashes.js';
export { kernelHashesTable } from './kernel-hashes.js';
export { privateKeyFromDer, privateKeyToPkcs8, privateKeyToSec1 } from './key-der.js';
export type { LaunchContents } from './launch-digest.js';
export { expectedMeasurement, guestLaunchDigest, launchDigest, verifyMeasurement } from './launch-digest.js';
export type { LaunchSession } from './launch-session.js';
export { createLaunchSession } from './launch-session.js';
export type { LinkVerdict } from './links.js';
export { checkLinks } from './links.js';
export type { Oca } from './oca.js';
export { createOca, ocaFromPrivateKey, signPekCsr } from './oca.js';
export type { PlatformEvidence } from './platform.js';
export { verifyPlatform } from './platform.js';
export type { SecretEntry } from './secret.js';
export { packageSecret, readSecretTable, SECRET_TABLE_GUID, secretTable } from './secret.js';
