/** What tests do with hosts over and over: guests that count, certificates, and the way from one host to the next. */
import { nodeProvider } from '@cvm/crypto/node';
import type { MigrationInfo } from '@cvm/qmp';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { SEV_CERT_SIZE, Status, verifyPlatform } from '@cvm/sev-hw/owner';
import { base64, type Fleet, fromBase64, type TestHost } from './hosts.js';

const keyServer = createKeyServer(nodeProvider);

/** A guest: what it does, and what protects it. */
export interface Guest {
	readonly workload: 'ab' | 'random' | 'shared-io';
	readonly steps: number;
	readonly seed?: number;
	/** Guest policy; without one it is a plain VM. */
	readonly policy?: number;
	readonly memory?: string;
	/** `off`: as fast as it can. */
	readonly ticks?: 'on' | 'off';
}

/** Options of a host for this guest. */
export function guestOptions({ workload, steps, seed = 1, policy, memory = '40M', ticks = 'on' }: Guest): string[] {
	const sev = ['-machine', 'q35,confidential-guest-support=sev0', '-object', `sev-guest,id=sev0,policy=${policy}`];
	const items = { workload, seed, steps };
	return [
		...(policy === undefined ? [] : sev),
		...['-m', memory, '-smp', '2', '-ticks', ticks],
		...Object.entries(items).flatMap(([name, value]) => ['-fw_cfg', `name=opt/cvm/${name},string=${value}`]),
	];
}

/** A host with the guest launched, before its first instruction. */
export const startSource = (fleet: Fleet, name: string, guest: Guest, ...more: string[]): Promise<TestHost> =>
	fleet.start(name, [...guestOptions(guest), '-S', ...more]);

/** A host that waits for the guest. */
export const startTarget = (fleet: Fleet, name: string, guest: Guest, ...more: string[]): Promise<TestHost> =>
	fleet.start(name, [...guestOptions(guest), '-incoming', 'defer', ...more]);

/** What a platform shows of itself, with what the manufacturer's key server adds. */
export interface Platform {
	readonly pdh: Uint8Array;
	/** PEK ‖ OCA ‖ CEK, the CEK signed. */
	readonly chain: Uint8Array;
	readonly askArk: Uint8Array;
}

/** Asks a host for its certificates and checks them, as a guest owner does. */
export async function examine(host: TestHost): Promise<Platform> {
	const shown = await host.call('query-sev-capabilities');
	const cek = keyServer.cek(fromBase64(shown['cpu0-id']));
	const askArk = keyServer.askArk();
	const [pdh, chain] = [fromBase64(shown.pdh), fromBase64(shown['cert-chain'])];
	const verdict = verifyPlatform(nodeProvider, { pdh, chain, cek, askArk, trust: 'fake' });
	if (verdict.status !== Status.SUCCESS) throw new Error(`${host.name}: certificate chain: ${verdict.failed}`);
	// The chip exports its CEK unsigned; the signed one takes its place.
	chain.set(cek, 2 * SEV_CERT_SIZE);
	return { pdh, chain, askArk };
}

/** Tells a source for which platform to seal. */
export async function sealFor(source: TestHost, platform: Platform): Promise<void> {
	await source.call('migrate-set-parameters', {
		'sev-pdh': base64(platform.pdh),
		'sev-plat-cert': base64(platform.chain),
		'sev-amd-cert': base64(platform.askArk),
	});
}

/** Makes a target listen. @returns the URI */
export async function listen(target: TestHost): Promise<string> {
	await target.call('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
	const [address] = (await target.call('query-migrate'))['socket-address'] ?? [];
	if (address?.type !== 'inet') throw new Error(`${target.name}: expected an address of TCP`);
	return `tcp:${address.host}:${address.port}`;
}

/** Prepares both sides. @returns where the target listens */
export async function prepare(source: TestHost, target: TestHost): Promise<string> {
	const { enabled } = await source.call('query-sev');
	if (enabled) await sealFor(source, await examine(target));
	else {
		const capabilities = [{ capability: 'x-handover-commit' as const, state: true }];
		for (const host of [source, target]) await host.call('migrate-set-capabilities', { capabilities });
	}
	return listen(target);
}

/** One migration from its beginning to its end. @returns what `query-migrate` says of it on the source */
export async function migrate(source: TestHost, target: TestHost): Promise<MigrationInfo> {
	const uri = await prepare(source, target);
	source.forgetEvents();
	await source.call('migrate', { uri });
	return source.migrationEnd();
}
