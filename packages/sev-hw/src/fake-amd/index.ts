/**
 * A manufacturer that is not AMD: a root, a signing key and a key server for the platforms of this model.
 *
 * **EVERY PRIVATE KEY HERE IS PUBLISHED IN THE SOURCE AND PROVES NOTHING.** A chain that ends in this root says only that
 * somebody ran this code. The key ids read `CVM-FAKE-…`, are never those of a real root, and must never be trusted
 * outside tests and demonstrations.
 *
 * ```ts
 * const server = createKeyServer(provider);
 * const { id } = chipIdentity(provider, 'my first chip');
 * const cek = server.cek(id);
 * const askArk = server.askArk();
 * ```
 *
 * @packageDocumentation
 */
export type { ChipIdentity } from './chip.js';
export { cekOfChip, chipIdentity } from './chip.js';
export { buildFirmwareImage } from './firmware-image.js';
export type { KeyServer } from './key-server.js';
export { createKeyServer, signCek } from './key-server.js';
export type { KeyServiceAnswer } from './key-service.js';
export { answerKeyRequest } from './key-service.js';
export { FAKE_ARK_KEY, FAKE_ASK_KEY } from './published-keys.js';
export { FAKE_ARK_KEY_ID, FAKE_ASK_KEY_ID, fakeArk, fakeAsk } from './roots.js';
