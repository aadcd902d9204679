/**
 * The contract of a {@link CryptoProvider} as a test suite: public vectors, and the refusals that callers rely on. Run it
 * on a provider of your own.
 *
 * ```ts
 * import { describe, expect, it } from 'vitest';
 * describeCryptoProvider('mine', myProvider, { describe, expect, it });
 * ```
 *
 * @packageDocumentation
 */
import type { CryptoProvider } from './provider.js';
import { blockCipherSuite } from './testing/block-cipher.js';
import type { TestFramework } from './testing/framework.js';
import { gcmSuite } from './testing/gcm.js';
import { hashingSuite } from './testing/hashing.js';
import { p384Suite } from './testing/p384.js';
import { rsaPssSuite } from './testing/rsa-pss.js';

export type { TestFramework } from './testing/framework.js';

/** Declares the contract tests of `provider` in `framework`, under `name`. */
export function describeCryptoProvider(name: string, provider: CryptoProvider, framework: TestFramework): void {
	framework.describe(`crypto provider ${name}`, () => {
		blockCipherSuite(provider, framework);
		gcmSuite(provider, framework);
		hashingSuite(provider, framework);
		p384Suite(provider, framework);
		rsaPssSuite(provider, framework);
	});
}
