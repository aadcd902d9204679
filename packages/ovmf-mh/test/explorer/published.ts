import { PAGE_SIZE } from '@cvm/layout';
import { HelperGeometry } from '../../src/geometry.js';
import { HelperCommand, HelperPhase, HelperStatus, helperReport } from '../../src/mailbox/abi.js';
import type { HelperCore, HelperPlatform } from '../../src/session/ports.js';

const NONE = new Uint8Array();

/**
 * The design of August 2021 behind the same port: SAVE and RESTORE copy pages, and whether a copy runs is for the hosts to say.
 * `freeze` stands for `stop`, `cancel` for `cont`, at either end.
 */
export function publishedCore({ memory }: HelperPlatform): HelperCore {
	const get = (gpa: number): number => {
		const word = new Uint8Array(4);
		memory.read(gpa, word);
		return new DataView(word.buffer).getUint32(0, true);
	};
	const set = (phase: number, gate: number): { status: number; output: Uint8Array; more: boolean } => {
		memory.exchange(HelperGeometry.state, phase);
		memory.exchange(HelperGeometry.gate, gate);
		return { status: HelperStatus.success, output: NONE, more: false };
	};
	const refused = { status: HelperStatus.invalidFunction, output: NONE, more: false };
	return {
		install: (role) => void set(HelperPhase[role], role === 'idle' ? 0 : 1),
		control(command) {
			const phase = get(HelperGeometry.state);
			if (command === HelperCommand.query) {
				const rest = { streams: 1, epoch: 0, versionMin: 0, versionMax: 0, capabilities: 0 };
				const counts = { records: 0n, pages: 0n, zeroPages: 0n };
				return {
					status: HelperStatus.success,
					output: helperReport.encode({ phase, ...rest, ...counts }),
					more: false,
				};
			}
			if (command === HelperCommand.freeze && phase === HelperPhase.idle) return set(HelperPhase.frozen, 1);
			if (command === HelperCommand.cancel && phase !== HelperPhase.idle) return set(HelperPhase.idle, 0);
			return refused;
		},
		seal(_stream, gpas, count, out) {
			for (let i = 0; i < count; i++) {
				memory.read(gpas[i] ?? 0, out.bodies.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
			}
			return { status: HelperStatus.success, detail: 0, headerLength: 0, bodies: count };
		},
		open(_stream, gpas, count, _header, bodies) {
			for (let i = 0; i < count; i++) memory.write(gpas[i] ?? 0, bodies.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
			return { status: HelperStatus.success, detail: 0 };
		},
	};
}
