/**
 * The guest owner's half of a launch (SEV API 0.24 §6.2, §6.6): verify the platform, wrap keys for it, check the
 * measurement, package secrets. Needs no platform, only what an untrusted host passes on.
 *
 * ```ts
 * const { status } = verifyPlatform(provider, { pdh, chain, cek, askArk, trust: AMD_ROOTS.naples });
 * if (status !== Status.SUCCESS) throw new Error('not an AMD platform');
 * const { dhCert, session, keys } = createLaunchSession({ provider, random, platformPdh: pdh, policy });
 * // the host runs LAUNCH_START with dhCert and session, loads the firmware, and returns LAUNCH_MEASURE's blob
 * const digest = launchDigest(provider, [firmware, kernelHashesTable(provider, { kernel })]);
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
export { readAmdCertificate, splitAmdCertificates } from '../certificates/amd-certificate.js';
export type { ChainLink, ChainVerdict } from '../certificates/chain.js';
export type { SevCertificate, SignatureSlot } from '../certificates/sev-certificate.js';
export { CertAlgo, CertUsage, readSevCertificate, SEV_CERT_SIZE } from '../certificates/sev-certificate.js';
export type { MeasurementInput } from '../channel/measurement.js';
export type { ChannelKeys } from '../channel/session.js';
export { AMD_ROOTS } from './amd-roots.js';
export { OwnerError } from './error.js';
export { kernelHashesTable } from './kernel-hashes.js';
export { expectedMeasurement, launchDigest, verifyMeasurement } from './launch-digest.js';
export type { LaunchSession } from './launch-session.js';
export { createLaunchSession } from './launch-session.js';
export type { PlatformEvidence } from './platform.js';
export { verifyPlatform } from './platform.js';
export type { SecretEntry } from './secret.js';
export { packageSecret, SECRET_TABLE_GUID, secretTable } from './secret.js';
