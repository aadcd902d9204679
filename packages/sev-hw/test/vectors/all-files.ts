import { amdFiles } from './amd-cases.js';
import { attestationFiles } from './attestation-cases.js';
import { certificateFiles } from './certificate-cases.js';
import { verifyCases } from './certificate-verify-cases.js';
import { chainFiles } from './chain-cases.js';
import { channelFiles } from './channel-cases.js';
import type { VectorFile } from './format.js';
import { launchFiles } from './launch-cases.js';
import { packetFiles } from './packet-cases.js';

/** The text of every vector file by its name in `vectors/sev`. The same at every call, on every machine. */
export function vectorTexts(): ReadonlyMap<string, string> {
	const files: readonly VectorFile[] = [
		...channelFiles(),
		...launchFiles(),
		...packetFiles(),
		...certificateFiles(),
		verifyCases(),
		...attestationFiles(),
		...amdFiles(),
		...chainFiles(),
	];
	return new Map(files.map((file) => [`${file.operation}.json`, `${JSON.stringify(file, null, '\t')}\n`]));
}
