/** The guest owner's side of a launch, as far as tests of hosts need one. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import {
	createLaunchSession,
	type LaunchSession,
	launchDigest,
	packageSecret,
	type Status,
	secretTable,
	verifyMeasurement,
} from '@cvm/sev-hw/owner';
import { base64, type Fleet, fromBase64, type TestHost } from './hosts.js';
import { examine } from './migration.js';

const SECRET_GUID = '736869e5-84f0-4973-92ec-06879ce3da0b';

/** A launch session for a platform that lives in a folder, and the options of the host that launches with it. */
export class GuestOwner {
	readonly #session: LaunchSession;
	readonly #policy: number;
	/** `-platform` and `-object`; the guest needs `-machine q35,confidential-guest-support=sev0` beside them. */
	readonly options: readonly string[];

	private constructor(session: LaunchSession, policy: number, options: readonly string[]) {
		this.#session = session;
		this.#policy = policy;
		this.options = options;
	}

	/** As libvirt does: a first host only shows the platform, so that the owner can make a session for it. */
	static async open(fleet: Fleet, folder: string, policy: number): Promise<GuestOwner> {
		const platform = ['-platform', join(folder, 'platform')];
		const probe = await fleet.start('probe', ['-machine', 'none', '-S', ...platform]);
		const { pdh } = await examine(probe);
		await probe.host.close();
		const session = createLaunchSession({ provider: nodeProvider, random: systemRandom(), platformPdh: pdh, policy });
		const [certificate, blob] = [join(folder, 'godh.b64'), join(folder, 'session.b64')];
		writeFileSync(certificate, base64(session.dhCert));
		writeFileSync(blob, base64(session.session));
		const object = `sev-guest,id=sev0,policy=${policy},dh-cert-file=${certificate},session-file=${blob}`;
		return new GuestOwner(session, policy, [...platform, '-object', object]);
	}

	/** Holds the launch's measurement against what should have been launched. */
	async verify(host: TestHost, expected: readonly Uint8Array[]): Promise<Status> {
		const blob = fromBase64((await host.call('query-sev-launch-measure')).data);
		const info = await host.call('query-sev');
		const version = { major: info['api-major'], minor: info['api-minor'], build: info['build-id'] };
		const digest = launchDigest(nodeProvider, expected);
		return verifyMeasurement(nodeProvider, blob, {
			tik: this.#session.keys.tik,
			version,
			policy: this.#policy,
			digest,
		});
	}

	/** Seals a secret for the launched guest: the arguments of `sev-inject-launch-secret`. */
	seal(host: TestHost, data: Uint8Array): Promise<{ 'packet-header': string; secret: string }> {
		return this.sealTable(host, [{ guid: SECRET_GUID, data }]);
	}

	/** The same for a table of several. */
	async sealTable(
		host: TestHost,
		entries: readonly { readonly guid: string; readonly data: Uint8Array }[],
	): Promise<{ 'packet-header': string; secret: string }> {
		const measure = fromBase64((await host.call('query-sev-launch-measure')).data).subarray(0, 32);
		const secret = secretTable(entries);
		const { keys } = this.#session;
		const { header, payload } = packageSecret({
			provider: nodeProvider,
			random: systemRandom(),
			keys,
			measure,
			secret,
		});
		return { 'packet-header': base64(header), secret: base64(payload) };
	}
}
