import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createFwCfgDevice, type DmaMemory, e820File, type FwCfgDevice, FwCfgKey, FwCfgPort } from './index.js';

const text = (s: string) => Uint8Array.from(s, (c) => c.charCodeAt(0));
const RAM = 0x40000;

function rig(files: Record<string, Uint8Array> = { 'opt/org.test/zz': text('hello'), 'opt/a': text('0') }) {
	const ram = new Uint8Array(RAM);
	const memory: DmaMemory = {
		read: (gpa, out) => {
			if (gpa + out.length > RAM) return false;
			out.set(ram.subarray(gpa, gpa + out.length));
			return true;
		},
		write: (gpa, data) => {
			if (gpa + data.length > RAM) return false;
			ram.set(data, gpa);
			return true;
		},
	};
	const uuid = Uint8Array.from({ length: 16 }, (_, i) => 17 * i);
	const device = createFwCfgDevice({ files, ramBytes: 64 << 20, bootCpus: 2, maxCpus: 3, uuid, memory });
	/** Runs one DMA descriptor; gives the control word left in it and 8 bytes at the buffer, which held EE. */
	const dma = (control: number, length: number, address = 0x20000, at = 0x10000) => {
		const view = new DataView(ram.buffer);
		view.setUint32(at, control);
		view.setUint32(at + 4, length);
		view.setBigUint64(at + 8, BigInt(address));
		ram.fill(0xee, 0x20000, 0x20010);
		device.ioWrite(FwCfgPort.dmaHigh, 4, 0);
		const swapped = new DataView(new ArrayBuffer(4));
		swapped.setUint32(0, at);
		device.ioWrite(FwCfgPort.dmaLow, 4, swapped.getUint32(0, true));
		return { control: view.getUint32(at), bytes: [...ram.subarray(0x20000, 0x20008)] };
	};
	return { device, dma, ram };
}

const read = (device: FwCfgDevice, key: number, count: number) => {
	device.ioWrite(FwCfgPort.selector, 2, key);
	return Array.from({ length: count }, () => device.ioRead(FwCfgPort.data, 1));
};
const ascii = (s: string) => [...text(s)];

/** Values measured on Debian's qemu 7.2.22, -machine q35 -m 64 -smp 2,maxcpus=3, by its qtest protocol. */
describe('a fw_cfg device, by its ports', () => {
	it('has the items of QEMU at their keys, and zeros behind them', () => {
		const { device } = rig();
		expect(read(device, FwCfgKey.signature, 6)).toEqual([...ascii('QEMU'), 0, 0]);
		expect(read(device, FwCfgKey.id, 6)).toEqual([3, 0, 0, 0, 0, 0]);
		expect(read(device, FwCfgKey.uuid, 18)).toEqual([...Array.from({ length: 16 }, (_, i) => 17 * i), 0, 0]);
		expect(read(device, FwCfgKey.ramSize, 10)).toEqual([0, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
		expect(read(device, FwCfgKey.bootCpus, 4)).toEqual([2, 0, 0, 0]);
		expect(read(device, FwCfgKey.maxCpus, 4)).toEqual([3, 0, 0, 0]);
	});

	it.each([0x1234, 0x8000, 0x7fff, 0x0004, 0x3fff])('reads zeros from unknown key %i', (key) => {
		expect(read(rig().device, key, 4)).toEqual([0, 0, 0, 0]);
	});

	it('ignores the write-intent bit of a selector', () => {
		expect(read(rig().device, 0x4000, 4)).toEqual(ascii('QEMU'));
	});

	it('starts with the signature selected, and starts over on every selection', () => {
		const { device } = rig();
		expect(device.ioRead(FwCfgPort.data, 1)).toBe(0x51);
		expect(read(device, FwCfgKey.signature, 2)).toEqual(ascii('QE'));
		expect(read(device, FwCfgKey.signature, 2)).toEqual(ascii('QE'));
	});

	it('lists files sorted by name, with selectors in that order', () => {
		const { device } = rig({ 'opt/org.test/zz': text('hello'), 'etc/e820': new Uint8Array(20), bootorder: text('') });
		const bytes = Uint8Array.from(read(device, FwCfgKey.directory, 4 + 3 * 64));
		const view = new DataView(bytes.buffer);
		expect(view.getUint32(0)).toBe(3);
		const entries = [0, 1, 2].map((i) => {
			const at = 4 + 64 * i;
			const name = String.fromCharCode(...bytes.subarray(at + 8, at + 64)).replaceAll('\0', '');
			return [view.getUint16(at + 4), view.getUint32(at), view.getUint16(at + 6), name];
		});
		expect(entries).toEqual([
			[0x20, 0, 0, 'bootorder'],
			[0x21, 20, 0, 'etc/e820'],
			[0x22, 5, 0, 'opt/org.test/zz'],
		]);
		expect(read(device, 0x22, 7)).toEqual([...ascii('hello'), 0, 0]);
	});

	it('lets only 16-bit writes to the selector port select, and only 8-bit reads advance', () => {
		const { device } = rig();
		read(device, 0, 1);
		device.ioWrite(FwCfgPort.data, 1, 1);
		expect(device.ioRead(FwCfgPort.data, 1)).toBe(0x45);
		device.ioWrite(FwCfgPort.selector, 1, 1);
		device.ioWrite(FwCfgPort.data, 2, 1);
		device.ioWrite(FwCfgPort.selector, 4, 1);
		expect(device.ioRead(FwCfgPort.selector, 2)).toBe(0);
		expect(device.ioRead(FwCfgPort.data, 1)).toBe(0x4d);
	});

	it('keeps its own copy of a file', () => {
		const file = text('1');
		const { device } = rig({ 'opt/x': file });
		file[0] = 0x32;
		expect(read(device, 0x20, 1)).toEqual([0x31]);
	});

	it.each(['', 'with space', 'x'.repeat(56), 'ünicode', 'nul\0'])('refuses the file name %j', (name) => {
		expect(() => rig({ [name]: text('') })).toThrow('fw_cfg file name');
	});

	it('answers all ones on ports that it does not have, DMA included when there is no memory', () => {
		const device = createFwCfgDevice({ files: {}, ramBytes: 1, bootCpus: 1 });
		expect(device.ioRead(0x512, 1)).toBe(0xff);
		expect(device.ioRead(0x514, 4)).toBe(0xffffffff);
		expect(device.owns(0x514)).toBe(false);
		expect(device.owns(0x511)).toBe(true);
		expect(read(device, FwCfgKey.id, 1)).toEqual([1]);
		expect(read(device, FwCfgKey.maxCpus, 1)).toEqual([1]);
	});
});

describe('a fw_cfg device, by DMA', () => {
	const [READ, SKIP, SELECT, WRITE] = [2, 4, 8, 16] as const;
	const EE = 0xee;

	it('identifies itself as "QEMU CFG", big-endian, at any size', () => {
		const { device } = rig();
		expect(device.ioRead(0x514, 4)).toBe(0x554d4551);
		expect(device.ioRead(0x518, 4)).toBe(0x47464320);
		expect(device.ioRead(0x514, 1)).toBe(0x51);
		expect(device.ioRead(0x51b, 1)).toBe(0x47);
		expect(device.ioRead(0x515, 2)).toBe(0x4d45);
		expect(device.ioRead(0x516, 2)).toBe(0x554d);
	});

	it('selects and reads, and fills with zeros past the end', () => {
		const { dma } = rig();
		expect(dma((0x20 << 16) | SELECT | READ, 4)).toEqual({ control: 0, bytes: [0x30, 0, 0, 0, EE, EE, EE, EE] });
	});

	it('goes on where the last transfer ended, by DMA or by port', () => {
		const { dma, device } = rig();
		expect(dma(SELECT | READ, 2).bytes.slice(0, 3)).toEqual([...ascii('QE'), EE]);
		expect(dma(READ, 4).bytes.slice(0, 5)).toEqual([...ascii('MU'), 0, 0, EE]);
		expect(dma(SELECT | SKIP, 1)).toEqual({ control: 0, bytes: new Array(8).fill(EE) });
		expect(device.ioRead(FwCfgPort.data, 1)).toBe(0x45);
	});

	it('prefers read over write and skip, and does nothing without any', () => {
		const { dma } = rig();
		expect(dma(SELECT | READ | SKIP, 1).bytes.slice(0, 2)).toEqual([0x51, EE]);
		expect(dma(SELECT | READ | WRITE, 2)).toEqual({ control: 0, bytes: [0x51, 0x45, EE, EE, EE, EE, EE, EE] });
		expect(dma(SELECT, 7)).toEqual({ control: 0, bytes: new Array(8).fill(EE) });
	});

	it('refuses to write, though the offset moves', () => {
		const { dma } = rig();
		expect(dma(SELECT | WRITE, 1).control).toBe(1);
		expect(dma(READ, 2).bytes.slice(0, 2)).toEqual(ascii('EM'));
		expect(dma((0x1234 << 16) | SELECT | WRITE, 4).control).toBe(1);
	});

	it('reads zeros from, and skips in, an unknown item', () => {
		const { dma } = rig();
		expect(dma(((0x1234 << 16) | SELECT | READ) >>> 0, 4)).toEqual({ control: 0, bytes: [0, 0, 0, 0, EE, EE, EE, EE] });
		expect(dma((0x1234 << 16) | SELECT | SKIP, 4).control).toBe(0);
	});

	it.each([RAM, RAM - 2, 2 ** 40])('reports an error for a buffer at %i that is not all RAM', (address) => {
		expect(rig().dma(SELECT | READ, 4, address).control).toBe(1);
	});

	it('reports an error in the control word when only that can be reached, and survives when nothing can', () => {
		const { device, ram } = rig();
		const start = (at: number) => {
			const swapped = new DataView(new ArrayBuffer(4));
			swapped.setUint32(0, at);
			device.ioWrite(FwCfgPort.dmaLow, 4, swapped.getUint32(0, true));
		};
		start(RAM - 8);
		expect([...ram.subarray(RAM - 8, RAM - 4)]).toEqual([0, 0, 0, 1]);
		start(0xfffffff0);
		expect(device.ioRead(FwCfgPort.data, 1)).toBe(0x51);
	});

	it('does nothing for a write of another size, or of the high half alone', () => {
		const { device, ram } = rig();
		device.ioWrite(FwCfgPort.dmaLow, 2, 0x100);
		device.ioWrite(FwCfgPort.dmaLow, 1, 0);
		device.ioWrite(FwCfgPort.dmaHigh, 4, 0);
		expect(ram.every((b) => b === 0)).toBe(true);
	});

	it('uses the high half for one transfer only', () => {
		const { device, dma } = rig();
		device.ioWrite(FwCfgPort.dmaHigh, 4, 0x01000000);
		device.ioWrite(FwCfgPort.dmaLow, 4, 0);
		expect(dma(SELECT | READ, 1).bytes[0]).toBe(0x51);
	});

	const io = fc.tuple(
		fc.boolean(),
		fc.integer({ min: 0x50f, max: 0x51c }),
		fc.constantFrom(1, 2, 4),
		fc.integer({ min: 0, max: 0xffffffff }),
	);
	test.prop([fc.array(io, { maxLength: 60 })])('survives any accesses', (accesses) => {
		const { device } = rig();
		for (const [write, port, size, value] of accesses) {
			if (write) device.ioWrite(port, size, value);
			else {
				const got = device.ioRead(port, size);
				expect(got).toBeGreaterThanOrEqual(0);
				expect(got).toBeLessThan(2 ** (8 * size));
			}
		}
		expect(read(device, 0, 4)).toEqual(ascii('QEMU'));
	});
});

describe('etc/e820', () => {
	it('is what QEMU gave for 64 MiB without its reserved range', () => {
		expect([...e820File([{ addr: 0, size: 64 << 20, type: 1 }])]).toEqual([
			...[0, 0, 0, 0, 0, 0, 0, 0],
			...[0, 0, 0, 4, 0, 0, 0, 0],
			...[1, 0, 0, 0],
		]);
	});
});
