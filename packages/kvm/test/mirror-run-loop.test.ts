import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { RunOffset } from '../src/abi/index.js';
import { handleMirrorExit, type MachineDevices } from '../src/mirror/index.js';
import { deviceLog } from './mirror-machine.js';

describe('the run loop of a mirror vCPU', () => {
	/** kvm_run with an exit in it. */
	function exit(reason: number, fill: (view: DataView) => void = () => undefined): Uint8Array {
		const run = new Uint8Array(3 * 4096);
		const view = new DataView(run.buffer);
		view.setUint32(RunOffset.exitReason, reason, true);
		fill(view);
		return run;
	}
	const handled = (run: Uint8Array, other = 0) => {
		const seen: string[] = [];
		return [handleMirrorExit(run, deviceLog(seen, other)), ...seen];
	};

	it('hands port I/O on, access by access, and brings input back', () => {
		const run = exit(2, (view) => {
			view.setUint8(RunOffset.ioSize, 2);
			view.setUint16(RunOffset.ioPort, 0x70, true);
			view.setUint32(RunOffset.ioCount, 2, true);
			view.setBigUint64(RunOffset.ioDataOffset, 4096n, true);
		});
		expect(handled(run)).toEqual(['run', 'in 70 5a5a', 'in 70 5a5a']);
		expect([...run.subarray(4096, 4101)]).toEqual([0x5a, 0x5a, 0x5a, 0x5a, 0]);
	});

	it('hands MMIO on', () => {
		const run = exit(6, (view) => {
			view.setBigUint64(RunOffset.mmioPhysAddr, 0xfee00000n, true);
			view.setUint32(RunOffset.mmioLen, 4, true);
		});
		expect(handled(run)).toEqual(['run', 'read fee00000 77777777']);
		run[RunOffset.mmioIsWrite] = 1;
		expect(handled(run)).toEqual(['run', 'write fee00000 77777777']);
	});

	it('makes a triple fault a reset of the machine', () => {
		expect(handled(exit(8))).toEqual(['interrupted', 'reset']);
	});

	it.each([0, 17])('gives up at exit %i', (reason) => {
		expect(handled(exit(reason))).toEqual(['failed']);
	});

	it.each([
		[1, ['interrupted', 'shutdown']],
		[2, ['interrupted', 'reset']],
		[3, ['run', 'panic']],
		[6, ['run', 'other 24']],
	])('handles system event %i', (type, expected) => {
		expect(handled(exit(24, (view) => view.setUint32(RunOffset.systemEventType, type, true)))).toEqual(expected);
	});

	it('leaves every other exit to the machine, windows for interrupts and the dirty ring among them', () => {
		expect(handled(exit(7))).toEqual(['run', 'other 7']);
		expect(handled(exit(31))).toEqual(['run', 'other 31']);
		expect(handled(exit(3), -1)).toEqual(['failed', 'other 3']);
		expect(handled(exit(3), 1)).toEqual(['interrupted', 'other 3']);
	});

	test.prop([fc.uint8Array({ minLength: 64, maxLength: 64 }), fc.integer({ min: 0, max: 40 })], { numRuns: 500 })(
		'ends with any bytes in kvm_run, and shows devices nothing outside of it',
		(bytes, reason) => {
			const run = exit(reason);
			run.set(bytes.subarray(32), 32);
			const sizes: number[] = [];
			const devices: MachineDevices = {
				...deviceLog([]),
				io: (_port, _isOut, data) => sizes.push(data.length),
				mmio: (_gpa, _isWrite, data) => sizes.push(data.length),
			};
			expect(['run', 'interrupted', 'failed']).toContain(handleMirrorExit(run, devices));
			expect(sizes.length).toBeLessThanOrEqual(run.length);
			expect(sizes.every((size) => size <= 255)).toBe(true);
		},
	);
});
