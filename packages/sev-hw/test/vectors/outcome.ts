import type { CryptoProvider } from '@cvm/crypto';
import { toHex } from '@cvm/layout';
import { statusName } from '../../src/abi/status.js';
import type { Input, JsonObject } from './format.js';

/** What an operation gave: the name of its status, and outputs only if that is `SUCCESS`. */
export type Outcome = JsonObject & { readonly status: string };
/** One operation of `vectors/README.md`, done by this package. */
export type Operation = (provider: CryptoProvider, input: Input) => Outcome;

/** The outcome of something that succeeds: every output as hex. */
export const success = (outputs: Readonly<Record<string, Uint8Array>> = {}): Outcome => ({
	status: 'SUCCESS',
	...Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, toHex(value)])),
});

/** The outcome that is nothing but a status. */
export const verdict = (status: number): Outcome => ({ status: statusName(status) });
