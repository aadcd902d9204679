import { defaultParameters, type PrecopyParameters } from '@cvm/qemu-mig';
import { MIGRATION_CAPABILITIES, QmpError, QmpErrorClass } from '@cvm/qmp';
import { HANDOVER, HELPER } from '../qmp-schema.js';
import type { TargetCertificates } from '../sev-guest.js';

/** Blobs longer than this are refused, as the kernel does (SEV_FW_BLOB_MAX_SIZE). */
const BLOB_LIMIT = 0x4000;
const DOWNTIME_LIMIT = 2000 * 1000;

/** Capabilities that this host acts on; the others may be set only to what they are, off. */
const SUPPORTED: readonly string[] = ['events', 'return-path', HANDOVER, HELPER];

const generic = (desc: string) => new QmpError(QmpErrorClass.genericError, desc);

interface GivenParameters {
	readonly 'max-bandwidth'?: bigint | undefined;
	readonly 'downtime-limit'?: bigint | undefined;
	readonly 'sev-pdh'?: string | undefined;
	readonly 'sev-plat-cert'?: string | undefined;
	readonly 'sev-amd-cert'?: string | undefined;
}

/** What `migrate-set-parameters` and `migrate-set-capabilities` keep. */
export class MigrationSettings {
	readonly parameters: PrecopyParameters = defaultParameters();
	readonly #certificates = { 'sev-pdh': '', 'sev-plat-cert': '', 'sev-amd-cert': '' };
	readonly #capabilities = new Map<string, boolean>(
		[...MIGRATION_CAPABILITIES, HANDOVER, HELPER].map((name) => [name, false]),
	);
	readonly #hasHelper: boolean;

	/** @param hasHelper whether the machine has mirror vCPUs: then helpers are used unless told otherwise */
	constructor(hasHelper = false) {
		this.#hasHelper = hasHelper;
		this.#capabilities.set(HELPER, hasHelper);
	}

	has(capability: string): boolean {
		return this.#capabilities.get(capability) ?? false;
	}

	get capabilities(): { capability: string; state: boolean }[] {
		return [...this.#capabilities].map(([capability, state]) => ({ capability, state }));
	}

	/** Changes all of them or none. @throws QmpError */
	setCapabilities(list: readonly { readonly capability: string; readonly state: boolean }[]): void {
		for (const { capability, state } of list) {
			if (state && !SUPPORTED.includes(capability))
				throw generic(`Capability '${capability}' is not supported by this model`);
			if (state && capability === HELPER && !this.#hasHelper) {
				throw generic(`Capability '${HELPER}' needs mirror vCPUs: -smp N,mirrorvcpus=M`);
			}
		}
		for (const { capability, state } of list) this.#capabilities.set(capability, state);
	}

	/** Changes all of them or none. @throws QmpError with QEMU's text */
	setParameters(given: GivenParameters): void {
		const bandwidth = given['max-bandwidth'];
		const downtime = given['downtime-limit'];
		if (bandwidth !== undefined && bandwidth > BigInt(Number.MAX_SAFE_INTEGER)) {
			throw generic(
				`Parameter 'max_bandwidth' expects an integer in the range of 0 to ${Number.MAX_SAFE_INTEGER} bytes/second`,
			);
		}
		if (downtime !== undefined && downtime > BigInt(DOWNTIME_LIMIT)) {
			throw generic(`Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms`);
		}
		for (const name of ['sev-pdh', 'sev-plat-cert', 'sev-amd-cert'] as const) {
			const text = given[name];
			if (text !== undefined) decodeBlob(name, text);
		}
		if (bandwidth !== undefined) this.parameters.maxBandwidth = Number(bandwidth);
		if (downtime !== undefined) this.parameters.downtimeLimit = Number(downtime);
		for (const name of ['sev-pdh', 'sev-plat-cert', 'sev-amd-cert'] as const) {
			const text = given[name];
			if (text !== undefined) this.#certificates[name] = text;
		}
	}

	get shown(): Record<string, number | string> {
		return {
			'max-bandwidth': this.parameters.maxBandwidth,
			'downtime-limit': this.parameters.downtimeLimit,
			...this.#certificates,
		};
	}

	/** The target's certificates. @throws QmpError if one was not set: KVM wants all three, whatever the policy */
	target(): TargetCertificates {
		const read = (name: 'sev-pdh' | 'sev-plat-cert' | 'sev-amd-cert') => {
			const blob = decodeBlob(name, this.#certificates[name]);
			if (blob.length === 0) throw generic(`SEV: missing remote PDH or PLAT_CERT: Parameter '${name}' is not set`);
			return blob;
		};
		return { pdh: read('sev-pdh'), platform: read('sev-plat-cert'), amd: read('sev-amd-cert') };
	}
}

/** Base64, strictly. @throws QmpError */
export function decodeBlob(name: string, text: string): Uint8Array {
	if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
		throw generic(`Parameter '${name}' expects base64 text`);
	}
	const blob = Uint8Array.from(Buffer.from(text, 'base64'));
	if (blob.length > BLOB_LIMIT)
		throw generic(`Parameter '${name}' expects at most ${BLOB_LIMIT} bytes, got ${blob.length}`);
	return blob;
}
