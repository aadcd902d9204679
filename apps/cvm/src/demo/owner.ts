import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '@cvm/ovmf-mh';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import {
	createLaunchSession,
	type LaunchSession,
	launchDigest,
	packageSecret,
	SEV_CERT_SIZE,
	Status,
	secretTable,
	statusName,
	verifyMeasurement,
	verifyPlatform,
} from '@cvm/sev-hw/owner';
import { DemoFailure } from '../exit.js';
import type { Monitor } from './host-process.js';

/** GUID under which the demonstration's secret stands in the table: a disk key, say. */
const SECRET_GUID = '736869e5-84f0-4973-92ec-06879ce3da0b';

/** What a platform shows of itself, and what the manufacturer's key server adds. */
export interface PlatformCertificates {
	readonly pdh: Uint8Array;
	/** PEK ‖ OCA ‖ CEK, the CEK signed. */
	readonly chain: Uint8Array;
	/** ASK ‖ ARK. */
	readonly askArk: Uint8Array;
	readonly chipId: string;
}

/** A session for one launch: what it proves stays with the owner, the files are for the host. */
export interface OwnerSession {
	readonly dhCertFile: string;
	readonly sessionFile: string;
	readonly keys: LaunchSession['keys'];
}

const bytes = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, 'base64'));
/** Base64 for the wire. */
export const base64 = (data: Uint8Array): string => Buffer.from(data).toString('base64');

/** The guest owner, who trusts the manufacturer's root and nothing that a host says. */
export class GuestOwner {
	readonly #random = systemRandom();
	readonly #keyServer = createKeyServer(nodeProvider);
	/** What helpers of this guest know one another by: drawn anew for each guest, that is for each demonstration. */
	readonly #migrationSecret = encodeMigrationSecret(this.#random.bytes(16), this.#random.bytes(32));

	/** Asks a host for its certificates and checks the whole chain. @throws DemoFailure */
	async examine(monitor: Monitor, name: string): Promise<PlatformCertificates> {
		const shown = await monitor.execute('query-sev-capabilities');
		const chipId = bytes(shown['cpu0-id']);
		const cek = this.#keyServer.cek(chipId);
		const askArk = this.#keyServer.askArk();
		const pdh = bytes(shown.pdh);
		const chain = bytes(shown['cert-chain']);
		const verdict = verifyPlatform(nodeProvider, { pdh, chain, cek, askArk, trust: 'fake' });
		if (verdict.status !== Status.SUCCESS) {
			throw new DemoFailure(`${name}: certificate chain: ${verdict.failed}: ${statusName(verdict.status)}`);
		}
		// The chip exports its CEK unsigned; the signed one takes its place.
		const signed = chain.slice();
		signed.set(cek, 2 * SEV_CERT_SIZE);
		return { pdh, chain: signed, askArk, chipId: Buffer.from(chipId.subarray(0, 8)).toString('hex') };
	}

	/** Makes a launch session for a platform and writes it where its host will read it, as sevctl does. */
	openSession(platform: PlatformCertificates, policy: number, folder: string, name = 'guest'): OwnerSession {
		const { keys, dhCert, session } = createLaunchSession({
			provider: nodeProvider,
			random: this.#random,
			platformPdh: platform.pdh,
			policy,
		});
		const dhCertFile = join(folder, `${name}-godh.b64`);
		const sessionFile = join(folder, `${name}-session.b64`);
		writeFileSync(dhCertFile, base64(dhCert));
		writeFileSync(sessionFile, base64(session));
		return { dhCertFile, sessionFile, keys };
	}

	/** Compares what was launched with what should have been. @returns the digest, in hex. @throws DemoFailure */
	async verifyLaunch(
		monitor: Monitor,
		{ keys }: OwnerSession,
		policy: number,
		expected: readonly Uint8Array[],
	): Promise<{ digest: string; measure: Uint8Array }> {
		const blob = bytes((await monitor.execute('query-sev-launch-measure')).data);
		const info = await monitor.execute('query-sev');
		const version = { major: info['api-major'], minor: info['api-minor'], build: info['build-id'] };
		const digest = launchDigest(nodeProvider, expected);
		const status = verifyMeasurement(nodeProvider, blob, { tik: keys.tik, version, policy, digest });
		if (status !== Status.SUCCESS) throw new DemoFailure(`launch measurement: ${statusName(status)}`);
		return { digest: Buffer.from(digest).toString('hex'), measure: blob.subarray(0, 32) };
	}

	/**
	 * Seals a secret for the measured guest and has its host inject it; with `helped` the migration secret besides, by which this
	 * guest's helpers know one another.
	 */
	async injectSecret(
		monitor: Monitor,
		{ keys }: OwnerSession,
		measure: Uint8Array,
		{ text, helped, gpa }: { readonly text: string; readonly helped: boolean; readonly gpa?: number | undefined },
	): Promise<void> {
		const entries = [{ guid: SECRET_GUID, data: new TextEncoder().encode(text) }];
		if (helped) entries.push({ guid: MIGRATION_SECRET_GUID, data: new Uint8Array(this.#migrationSecret) });
		const { header, payload } = packageSecret({
			provider: nodeProvider,
			random: this.#random,
			keys,
			measure,
			secret: secretTable(entries),
		});
		await monitor.execute('sev-inject-launch-secret', {
			'packet-header': base64(header),
			secret: base64(payload),
			...(gpa !== undefined && { gpa }),
		});
	}
}
