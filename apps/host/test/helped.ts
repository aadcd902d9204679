/** Guests that move by their migration helpers, for tests: hosts with mirror vCPUs, the owner's migration secret, and the way over. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '@cvm/ovmf-mh';
import type { MigrationInfo } from '@cvm/qmp';
import type { Fleet, TestHost } from './hosts.js';
import { type Guest, guestOptions } from './migration.js';
import { GuestOwner } from './owner.js';

/** A guest with migration helpers. */
export interface HelpedGuest extends Guest {
	/** Default 1. */
	readonly helpers?: number;
	/** Default `hardened`. */
	readonly profile?: 'hardened' | 'rfc-2021';
	/** Default `mh-v2`. */
	readonly dialect?: 'mh-v1' | 'mh-v2';
	/** Of `rfc-2021`: whether it may move a guest. Default true. */
	readonly plaintext?: boolean;
	/** `none`: nobody gives the guest any secret. Default {@link MIGRATION_SECRET}, and {@link DISK_SECRET} besides. */
	readonly secret?: Uint8Array | 'none';
}

const ascii = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'latin1'));
export const MIGRATION_SECRET = ascii('<canary: the migration secret 1>');
const GUEST_ID = ascii('<guest of tests>');
/** What the owner gives besides: some other secret of the guest. */
export const DISK_SECRET = ascii('<canary: the key to the disk 01>');
const DISK_GUID = '736869e5-84f0-4973-92ec-06879ce3da0b';

const START = 'name=opt/ovmf/PcdStartConfidentialMigrationHandler,string=1';
const TARGET = 'name=opt/ovmf/PcdIsConfidentialMigrationTarget,string=1';

/** Options of a machine with helpers; the guest's object is the caller's. */
export function helpedOptions(guest: HelpedGuest): string[] {
	const { helpers = 1, profile = 'hardened', dialect = 'mh-v2' } = guest;
	const { policy: _, ...plain } = guest;
	const options = guestOptions(plain);
	options[options.indexOf('-smp') + 1] = `${2 + helpers},mirrorvcpus=${helpers}`;
	return [
		...options,
		...[
			'-machine',
			'q35,confidential-guest-support=sev0',
			'-helper',
			`${profile},dialect=${dialect}`,
			'-fw_cfg',
			START,
		],
		...(profile === 'rfc-2021' && guest.plaintext !== false ? ['-insecure-plaintext'] : []),
	];
}

export const withoutPlaintext = (guest: HelpedGuest): HelpedGuest => ({ ...guest, plaintext: false });

let machines = 0;

/** A machine with the guest launched and its secrets given to it, before its first instruction. */
async function launch(
	fleet: Fleet,
	folder: string,
	name: string,
	guest: HelpedGuest,
	more: string[],
): Promise<TestHost> {
	const { secret = guest.profile === 'rfc-2021' ? 'none' : MIGRATION_SECRET, policy = 0 } = guest;
	if (secret === 'none') {
		const object = ['-object', `sev-guest,id=sev0,policy=${policy}`];
		return fleet.start(name, [...helpedOptions(guest), ...object, '-S', ...more]);
	}
	const room = join(folder, `${name}-${machines++}`);
	mkdirSync(room);
	const owner = await GuestOwner.open(fleet, room, policy);
	const host = await fleet.start(name, [...helpedOptions(guest), ...owner.options, '-S', ...more]);
	const entries = [
		{ guid: DISK_GUID, data: DISK_SECRET },
		{ guid: MIGRATION_SECRET_GUID, data: encodeMigrationSecret(GUEST_ID, secret) },
	];
	await host.call('sev-inject-launch-secret', await owner.sealTable(host, entries));
	return host;
}

/** A source, not yet running. */
export const startHelped = (
	fleet: Fleet,
	folder: string,
	name: string,
	guest: HelpedGuest,
	...more: string[]
): Promise<TestHost> => launch(fleet, folder, name, guest, more);

/** A target whose firmware runs up to where it waits for a guest. */
export async function startWaiting(
	fleet: Fleet,
	folder: string,
	name: string,
	guest: HelpedGuest,
	...more: string[]
): Promise<TestHost> {
	const host = await launch(fleet, folder, name, guest, ['-fw_cfg', TARGET, ...more]);
	await host.call('cont');
	return host;
}

/** Makes a target listen. @returns the URI */
export async function listenHelped(target: TestHost): Promise<string> {
	await target.call('start-migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
	const [address] = (await target.call('query-migrate'))['socket-address'] ?? [];
	if (address?.type !== 'inet') throw new Error(`${target.name}: expected an address of TCP`);
	return `tcp:${address.host}:${address.port}`;
}

/** One migration from its beginning to its end. @returns what `query-migrate` says of it on the source */
export async function migrateHelped(source: TestHost, target: TestHost): Promise<MigrationInfo> {
	const uri = await listenHelped(target);
	source.forgetEvents();
	await source.call('migrate', { uri });
	return source.migrationEnd();
}
