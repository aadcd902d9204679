import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { systemRandom } from '@cvm/crypto';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID, migrationSecret } from '@cvm/ovmf-mh';
import type { SecretEntry } from '@cvm/sev-hw/owner';
import type { Command } from 'commander';
import { whole } from '../demo/options.js';
import { Failure, Misuse } from '../exit.js';
import { judged, readInput } from './read.js';
import type { Output } from './write.js';

/** What a person says of the secret by which a guest's migration helpers know one another. */
export interface MigrationSecretOptions {
	readonly migrationSecret?: string;
	readonly guestId?: string;
	readonly minVersion?: string;
}

const NEW = 'new';
const FILE = 'migration_secret.bin';
const FORMAT = 1;
const MAX_VERSION = 0xffff;

/** Adds the options of {@link MigrationSecretOptions}. */
export const withMigrationSecret = (command: Command): Command =>
	command
		.option('--migration-secret <file>', `the secret of this guest's migration helpers; "${NEW}" makes ${FILE} in -d`)
		.option('--guest-id <uuid>', `with --migration-secret ${NEW}: the guest's name (default: a random one)`)
		.option('--min-version <n>', `with --migration-secret ${NEW}: the oldest helper protocol allowed (default: 1)`);

/** The entry for the table of secrets. A new one is also an output: the guest's other hosts need the same. */
export interface MigrationSecretEntry {
	readonly entry: SecretEntry;
	readonly outputs: readonly Output[];
	/** The guest's name, and the oldest protocol: no secrets. */
	readonly shown: { readonly 'guest-id': string; readonly 'min-version': number };
}

/** Makes or reads the migration secret; `undefined` if none is asked for. @throws Misuse, Failure */
export function migrationSecretOf(
	options: MigrationSecretOptions,
	directory: string,
): MigrationSecretEntry | undefined {
	const { migrationSecret: given, guestId, minVersion } = options;
	if (given !== NEW) {
		const lost = Object.entries({ '--guest-id': guestId, '--min-version': minVersion });
		for (const [option, value] of lost) {
			if (value !== undefined) throw new Misuse(`${option}: needs --migration-secret ${NEW}`);
		}
	}
	if (given === undefined) return undefined;
	if (given !== NEW) return entryOf(readInput('--migration-secret', given), [], given);
	const id = uuidBytes(guestId ?? randomUUID());
	const oldest = whole('--min-version', minVersion ?? '1', 1, MAX_VERSION);
	const data = encodeMigrationSecret(id, systemRandom().bytes(32), oldest);
	return entryOf(data, [{ path: join(directory, FILE), data, secret: true }], FILE);
}

function entryOf(data: Uint8Array, outputs: readonly Output[], path: string): MigrationSecretEntry {
	const what = `--migration-secret: '${path}'`;
	const { format, minVersion, guestId, secret } = judged(what, () => migrationSecret.decode(data));
	if (format !== FORMAT) throw new Failure(`${what}: expected format ${FORMAT}, got ${format}`);
	if (secret.every((byte) => byte === 0)) throw new Failure(`${what}: expected a secret, got zeros`);
	return {
		entry: { guid: MIGRATION_SECRET_GUID, data },
		outputs,
		shown: { 'guest-id': uuidText(guestId), 'min-version': minVersion },
	};
}

/** A UUID's 16 bytes in the order in which it is written. */
function uuidBytes(text: string): Uint8Array {
	if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) {
		throw new Misuse(`--guest-id: expected a UUID, got '${text}'`);
	}
	return new Uint8Array(Buffer.from(text.replaceAll('-', ''), 'hex'));
}

const uuidText = (bytes: Uint8Array): string =>
	Buffer.from(bytes)
		.toString('hex')
		.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
